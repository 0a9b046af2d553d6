//! How the kernel's structures are laid out: what its own description says, or what it said before.
//!
//! A description is some 5 MB and says the same for as long as the kernel is the same build. Every
//! answer is remembered with its question, so that the next look at that build need not ask again. A
//! question that was not asked then has no answer: the description is read once more.

mod description;
pub(super) mod layout;

use super::memory::Fault;
use super::space::Space;
use description::Description;
use layout::Field;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

/// No structure that is read is larger; `task_struct` has some 10 KB.
const STRUCTURE_BYTES: u64 = 64 * 1024;

/// Why the layout of structures is not known.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TypesError {
    /// There is none.
    #[error("the kernel carries no description of its types (CONFIG_DEBUG_INFO_BTF)")]
    None,
    /// It is none.
    #[error("the kernel's description of its types makes no sense")]
    Rubbish,
    /// A kernel without this is not known.
    #[error("the kernel's description of its types has no `{0}`")]
    Missing(&'static str),
    /// This was not asked when the description was read.
    #[error("of the kernel's types this is not remembered: `{0}`")]
    NotAsked(&'static str),
    /// It cannot be read.
    #[error("failed to read the kernel's description of its types")]
    Fault(#[from] Fault),
}

/// The types of a kernel.
pub(super) struct Types {
    /// Nothing where the answers are from an earlier look.
    description: Option<Description>,
    answers: RefCell<Answers>,
}

/// What was asked of a kernel's types, and what they answered; nothing where they have no such thing.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answers {
    /// By structure, then by member.
    members: BTreeMap<String, BTreeMap<String, Option<Field>>>,
    /// How many bytes structures take.
    sizes: BTreeMap<String, Option<u32>>,
}

impl Types {
    /// Those that the description at `at` tells.
    pub(super) fn read(space: &Space<'_>, at: Range<u64>) -> Result<Self, TypesError> {
        let description = Description::read(space, at, &layout::words())?;
        Ok(Self { description: Some(description), answers: RefCell::default() })
    }

    /// Those that answered so before.
    pub(super) fn remembered(answers: Answers) -> Result<Self, TypesError> {
        let mut fields = answers.members.values().flat_map(BTreeMap::values).flatten();
        match fields.all(|field| field.is_sane()) {
            true => Ok(Self { description: None, answers: RefCell::new(answers) }),
            false => Err(TypesError::Rubbish),
        }
    }

    /// All that was asked so far.
    pub(super) fn answers(&self) -> Answers {
        self.answers.borrow().clone()
    }

    /// Where a member of a structure is, as `sched_info.last_arrival`; structures without a name are
    /// looked into.
    fn member(
        &self,
        space: &Space<'_>,
        structure: &'static str,
        path: &'static str,
    ) -> Result<Option<Field>, TypesError> {
        let Some(description) = &self.description else {
            let answers = self.answers.borrow();
            let answer = answers.members.get(structure).and_then(|members| members.get(path));
            return answer.copied().ok_or(TypesError::NotAsked(path));
        };
        let answer = description.field(space, structure, path)?;
        let mut answers = self.answers.borrow_mut();
        answers.members.entry(structure.to_owned()).or_default().insert(path.to_owned(), answer);
        Ok(answer)
    }

    /// How many bytes a structure takes.
    pub(super) fn bytes_of(
        &self,
        space: &Space<'_>,
        structure: &'static str,
    ) -> Result<Option<u32>, TypesError> {
        let Some(description) = &self.description else {
            let answer = self.answers.borrow().sizes.get(structure).copied();
            return answer.ok_or(TypesError::NotAsked(structure));
        };
        let answer = description.bytes_of(space, structure)?;
        self.answers.borrow_mut().sizes.insert(structure.to_owned(), answer);
        Ok(answer)
    }
}

#[cfg(test)]
pub(super) mod tests;
