//! Topics and filters: which are well-formed, what covers what, who subscribed to what.
//!
//! Pure. Never serves `$` topics: they belong to brokers that have something to say there.

use std::collections::BTreeMap;
use std::sync::Arc;

use rumqttc::v5::mqttbytes::QoS;

pub(super) type ClientId = Arc<str>;

/// How a subscriber wants what it asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) qos: QoS,
    pub(super) not_from_self: bool,
    pub(super) keep_retain: bool,
}

/// Who subscribed to what. Filters without wildcards are found by name, because every device has
/// some; filters with wildcards are tried one by one, because only controllers have them.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    exact: BTreeMap<String, BTreeMap<ClientId, Wish>>,
    wild: BTreeMap<String, BTreeMap<ClientId, Wish>>,
}

impl Subscriptions {
    /// Whether the subscription is new.
    pub(super) fn insert(&mut self, filter: &str, client: ClientId, wish: Wish) -> bool {
        let side = self.side(filter);
        side.entry(filter.to_string()).or_default().insert(client, wish).is_none()
    }

    /// Whether there was such a subscription.
    pub(super) fn remove(&mut self, filter: &str, client: &str) -> bool {
        let side = self.side(filter);
        let Some(clients) = side.get_mut(filter) else {
            return false;
        };
        let existed = clients.remove(client).is_some();
        if clients.is_empty() {
            side.remove(filter);
        }
        existed
    }

    /// Every subscriber once, however many of its filters match.
    pub(super) fn matching(&self, topic: &str) -> BTreeMap<ClientId, Wish> {
        let wild = self.wild.iter().filter(|(filter, _)| covers(filter, topic));
        let clients = self.exact.get(topic).into_iter().chain(wild.map(|(_, clients)| clients));
        let mut found = BTreeMap::new();
        for (client, wish) in clients.flatten() {
            let merged: &mut Wish = found.entry(client.clone()).or_insert(*wish);
            if wish.qos > merged.qos {
                merged.qos = wish.qos;
            }
            merged.not_from_self &= wish.not_from_self;
            merged.keep_retain |= wish.keep_retain;
        }
        found
    }

    fn side(&mut self, filter: &str) -> &mut BTreeMap<String, BTreeMap<ClientId, Wish>> {
        if filter.contains(['+', '#']) { &mut self.wild } else { &mut self.exact }
    }
}

pub(super) fn valid_topic(topic: &str) -> bool {
    !topic.is_empty() && !topic.starts_with('$') && !topic.contains(['+', '#', '\0'])
}

pub(super) fn valid_filter(filter: &str) -> bool {
    let last = filter.split('/').count() - 1;
    let mut levels = filter.split('/').enumerate();
    !filter.is_empty()
        && !filter.starts_with('$')
        && !filter.contains('\0')
        && levels.all(|(at, level)| match level {
            "+" => true,
            "#" => at == last,
            _ => !level.contains(['+', '#']),
        })
}

/// Whether the filter takes in everything that the other, a topic or itself a filter, stands for.
pub(super) fn covers(filter: &str, other: &str) -> bool {
    let mut others = other.split('/');
    for level in filter.split('/') {
        if level == "#" {
            return true;
        }
        match others.next() {
            None | Some("#") => return false,
            Some(other) if level == "+" || level == other => {}
            Some(_) => return false,
        }
    }
    others.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::{covers, valid_filter, valid_topic};

    #[test]
    fn a_filter_covers_topics_and_narrower_filters() {
        for (filter, other) in [
            ("a/b", "a/b"),
            ("a/+", "a/é"),
            ("a/#", "a"),
            ("a/#", "a/b/c"),
            ("#", "a/b"),
            ("+/b", "+/b"),
            ("a/#", "a/+/c"),
            ("a/+", "a/"),
            ("#", "#"),
        ] {
            assert!(covers(filter, other), "{filter} {other}");
        }
        for (filter, other) in [
            ("a/b", "a/b/c"),
            ("a/b/c", "a/b"),
            ("a/+", "a/#"),
            ("a/b", "a/+"),
            ("+", "a/b"),
            ("a/#", "b"),
            ("a/+/c", "a/b/#"),
        ] {
            assert!(!covers(filter, other), "{filter} {other}");
        }
    }

    #[test]
    fn wildcards_stand_alone() {
        for filter in ["a", "a/+/b", "+", "#", "a/#", "/", "é/+"] {
            assert!(valid_filter(filter), "{filter}");
        }
        for filter in ["", "a+", "a/#/b", "a#", "$SYS/#", "$share/g/a", "a\0"] {
            assert!(!valid_filter(filter), "{filter}");
        }
        assert!(
            valid_topic("a/b") && !valid_topic("a/+") && !valid_topic("") && !valid_topic("$a")
        );
    }
}
