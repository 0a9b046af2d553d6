//! Which apps there are, out of what all sources say, and what became different.
//!
//! Pure. A source says its whole set every time; the registry merges the sets, the first source
//! first, and tells the difference to what it told before.

use crate::base::id::AppId;
use crate::base::limits;
use crate::rules::{App, Life};
use std::collections::BTreeMap;

/// What became of an app.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// It is here now.
    Appeared(App),
    /// It goes on, but something about it is different.
    Changed(App),
    /// It is another run of the same app: what was learned of the last one holds no more.
    Restarted(App),
    /// It is here no more.
    Gone(AppId),
}

/// The apps of all sources.
#[derive(Debug)]
pub struct Registry {
    /// Of each source, what it last said; `None`: it has not said anything yet.
    said: Vec<Option<BTreeMap<AppId, App>>>,
    apps: BTreeMap<AppId, App>,
    /// All that was ever known of the run of each app that is here, even if no source says it now.
    lives: BTreeMap<AppId, Life>,
    /// Apps that were left out, for there are too many.
    dropped: usize,
}

impl Registry {
    /// No app yet, from this many sources. Where two know the same app, the first one's word counts
    /// and the others fill in what it does not know.
    #[must_use]
    pub fn new(sources: usize) -> Self {
        Self {
            said: vec![None; sources],
            apps: BTreeMap::new(),
            lives: BTreeMap::new(),
            dropped: 0,
        }
    }

    /// Takes what a source sees now, and tells what is different.
    pub fn update(&mut self, source: usize, apps: Vec<App>) -> Vec<Change> {
        let Some(said) = self.said.get_mut(source) else { return Vec::new() };
        *said = Some(apps.into_iter().map(|app| (app.id, app)).collect());
        let merged = self.merge();
        let before = std::mem::replace(&mut self.apps, merged);
        let mut changes: Vec<Change> = before
            .keys()
            .filter(|id| !self.apps.contains_key(id))
            .map(|id| Change::Gone(*id))
            .collect();
        self.lives.retain(|id, _| self.apps.contains_key(id));
        for (id, app) in &self.apps {
            let known = self.lives.entry(*id).or_default();
            let continues = known.continues_as(&app.life);
            *known = if continues { app.life.clone().or(known) } else { app.life.clone() };
            match before.get(id) {
                None => changes.push(Change::Appeared(app.clone())),
                Some(_) if !continues => changes.push(Change::Restarted(app.clone())),
                Some(old) if old != app => changes.push(Change::Changed(app.clone())),
                Some(_) => {}
            }
        }
        changes
    }

    /// Those that are here already come before new ones: a flood pushes nobody out.
    fn merge(&mut self) -> BTreeMap<AppId, App> {
        let mut merged: BTreeMap<AppId, App> = BTreeMap::new();
        for (id, app) in self.said.iter().flatten().flatten() {
            match merged.get_mut(id) {
                Some(known) => known.fill_from(app),
                None => drop(merged.insert(*id, app.clone())),
            }
        }
        self.dropped = merged.len().saturating_sub(limits::APPS);
        let new = merged.keys().rev().filter(|id| !self.apps.contains_key(id));
        let left_out: Vec<AppId> = new.take(self.dropped).copied().collect();
        merged.retain(|id, _| !left_out.contains(id));
        merged
    }

    /// The apps that are here, by their keys.
    pub fn apps(&self) -> impl Iterator<Item = &App> {
        self.apps.values()
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, id: AppId) -> Option<&App> {
        self.apps.get(&id)
    }

    /// Whether every source has said something: before that, a selector that selects nothing may
    /// only be early.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.said.iter().all(Option::is_some)
    }

    /// How many apps were left out because there are more than [`limits::APPS`].
    #[must_use]
    pub fn dropped(&self) -> usize {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Life;
    use proptest::prelude::*;

    fn app(id: u8, pid: u32) -> App {
        let life = Life { pid: Some(pid), ..Life::default() };
        App { life, ..App::new(AppId::new([id; 16]), format!("app-{id}")) }
    }

    #[test]
    fn an_app_appears_changes_restarts_and_goes() {
        let mut registry = Registry::new(1);
        assert!(!registry.is_settled());
        assert_eq!(registry.update(0, vec![app(1, 7)]), [Change::Appeared(app(1, 7))]);
        assert!(registry.is_settled());
        assert_eq!(registry.update(0, vec![app(1, 7)]), []);
        let renamed = App { name: "other".to_owned(), ..app(1, 7) };
        assert_eq!(registry.update(0, vec![renamed.clone()]), [Change::Changed(renamed)]);
        assert_eq!(registry.update(0, vec![app(1, 8)]), [Change::Restarted(app(1, 8))]);
        assert_eq!(registry.update(0, vec![]), [Change::Gone(app(1, 8).id)]);
        assert_eq!(registry.update(7, vec![app(1, 8)]), []);
    }

    #[test]
    fn the_first_source_is_meant_and_the_others_fill_in() {
        let mut registry = Registry::new(2);
        let listed = App { qmp: Some("/a/qmp".into()), ..App::new(AppId::new([1; 16]), "web") };
        let found =
            App { qmp: Some("/b/qmp".into()), console: Some("/b/cons".into()), ..app(1, 7) };
        registry.update(1, vec![found]);
        registry.update(0, vec![listed]);
        let merged = registry.get(AppId::new([1; 16])).unwrap();
        assert_eq!((merged.name.as_str(), merged.life.pid), ("web", Some(7)));
        assert_eq!(merged.qmp.as_deref(), Some(std::path::Path::new("/a/qmp")));
        assert_eq!(merged.console.as_deref(), Some(std::path::Path::new("/b/cons")));
        // An app of the list stays, whatever others say.
        assert!(matches!(registry.update(1, vec![])[..], [Change::Changed(_)]));
    }

    #[test]
    fn a_life_that_nobody_speaks_of_for_a_while_is_remembered() {
        let mut registry = Registry::new(2);
        registry.update(0, vec![App::new(AppId::new([1; 16]), "app-1")]);
        registry.update(1, vec![app(1, 7)]);
        registry.update(1, vec![]);
        assert!(matches!(registry.update(1, vec![app(1, 7)])[..], [Change::Changed(_)]));
        registry.update(1, vec![]);
        assert!(matches!(registry.update(1, vec![app(1, 8)])[..], [Change::Restarted(_)]));
    }

    #[test]
    fn a_flood_is_cut_and_does_not_push_out_who_is_here() {
        let mut registry = Registry::new(1);
        let id = |n: u32| {
            let mut id = [0; 16];
            id[12..].copy_from_slice(&n.to_be_bytes());
            AppId::new(id)
        };
        let many = u32::try_from(limits::APPS).unwrap() + 10;
        let last = App::new(id(many), "last");
        registry.update(0, vec![last.clone()]);
        let flood: Vec<App> = (0..=many).map(|n| App::new(id(n), "x")).collect();
        registry.update(0, flood);
        assert!(registry.get(last.id).is_some());
        assert!(registry.dropped() > 0);
        assert_eq!(registry.apps().count(), limits::APPS);
    }

    proptest! {
        /// Whoever follows the changes knows what the registry knows.
        #[test]
        fn changes_add_up(steps in prop::collection::vec((0_usize..3, prop::collection::vec((0_u8..6, 1_u32..3), 0..6)), 0..40)) {
            let mut registry = Registry::new(3);
            let mut followed: BTreeMap<AppId, App> = BTreeMap::new();
            for (source, apps) in steps {
                let apps = apps.into_iter().map(|(id, pid)| app(id, pid)).collect();
                for change in registry.update(source, apps) {
                    match change {
                        Change::Appeared(app) => prop_assert!(followed.insert(app.id, app).is_none()),
                        Change::Changed(app) => {
                            let old = followed.insert(app.id, app.clone()).unwrap();
                            prop_assert!(old != app);
                        }
                        Change::Restarted(app) => {
                            prop_assert!(followed.insert(app.id, app).is_some());
                        }
                        Change::Gone(id) => prop_assert!(followed.remove(&id).is_some()),
                    }
                }
                let known: Vec<&App> = registry.apps().collect();
                prop_assert_eq!(known, followed.values().collect::<Vec<_>>());
            }
        }
    }
}
