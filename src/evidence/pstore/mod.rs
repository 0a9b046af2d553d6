//! What a dying kernel left behind outside of its own memory: the records of Linux's pstore.
//!
//! At a panic or an oops the kernel writes the end of its log into whatever its machine has that
//! outlives it. Of a virtual machine that is a file of the host's: behind the device `acpi-erst`, or
//! the variables of its firmware ([`Store`]). It is written in parts, the end of the log first.
//!
//! ```text
//!   file --erst, efi--> Raw: when, maybe deflated --inflated--> Part: "Panic#1 Part2", text
//!                                                                 | joined
//!                                                                 v
//!                                                  Record: when, "Panic", text of the log
//! ```
//!
//! A guest that boots again mostly clears the records, but both stores only strike them out, and the
//! bytes stay until the place is needed: what was cleared is read as well. A guest may write anything
//! there. What is torn gives less text, what makes no sense gives none.

mod bytes;
mod efi;
mod erst;
mod part;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod written;

use super::kernel_log::KernelLog;
use super::rounds::Rounds;
use crate::base::limits;
use crate::base::time::Timestamp;
use part::Part;
use serde::{Deserialize, Serialize};

/// The parts of one record are written at once, but a busy host takes its time over it.
const APART_MS: i64 = 60_000;

/// How far a guest's clock is behind that of its host: it is taken over at boot, and counts seconds here.
const CLOCKS_MS: i64 = 5_000;

/// How long after the last round a capture may still find what is written then.
const CAPTURE_MS: i64 = 10 * 60_000;

/// Parts that are unpacked, the latest: a store of 64 KiB has 7, and firmware some 15 a record.
const PARTS: usize = 128;

/// Where a kernel writes its records.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Store {
    /// The file behind QEMU's device `acpi-erst`.
    Erst,
    /// Variables of the firmware, in the image of its flash memory.
    Efi,
}

/// What was found.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Records {
    /// By time.
    pub records: Vec<Record>,
    /// Parts that were there and could not be read.
    pub damaged: usize,
    /// Whether a store has no room for what comes.
    #[serde(default)]
    pub full: bool,
}

/// What a kernel wrote at one time.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Record {
    /// Where it was.
    pub store: Store,
    /// When, by the guest's clock.
    pub at: Timestamp,
    /// Why, in the kernel's word: `Panic`, `Oops`, `Emergency`, ..
    pub reason: String,
    /// Which one it was since the guest had booted, from 1 on.
    pub count: u32,
    /// Whether somebody struck it out, as a guest does that boots again.
    pub cleared: bool,
    /// Whether all of it could be read.
    pub whole: bool,
    /// The end of the kernel's log.
    pub text: String,
}

/// Why a file has no records.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StoreError {
    /// Some other file.
    #[error("it is no store of QEMU's `acpi-erst`: it does not begin with ERSTSTOR")]
    NotErst,
    /// QEMU itself would refuse it.
    #[error(
        "its header is of no store that QEMU knows (version {version:#x}, records of {size} bytes)"
    )]
    Header {
        /// As it says.
        version: u16,
        /// As it says.
        size: u32,
    },
    /// Firmware images may be kept so.
    #[error("it is a qcow2 image, and only raw ones are read")]
    Qcow2,
    /// Some other file, the read-only half of a firmware, or flash that no firmware has used yet.
    #[error("it has no variables of a UEFI firmware")]
    NoVariables,
}

impl Store {
    /// What people call it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Erst => "acpi-erst",
            Self::Efi => "the firmware's variables",
        }
    }
}

impl Records {
    /// Reads the file behind a store.
    ///
    /// # Errors
    ///
    /// When it is something else.
    pub fn of_file(store: Store, file: &[u8]) -> Result<Self, StoreError> {
        let mut raw = match store {
            Store::Erst => erst::parts(file),
            Store::Efi => efi::parts(file),
        }?;
        raw.sort_by_key(|raw| raw.at);
        raw.drain(..raw.len().saturating_sub(PARTS));
        let mut damaged = 0;
        let mut parts = Vec::new();
        for raw in &raw {
            match Part::read(raw) {
                Some(part) => parts.push(part),
                // What takes the place of a cleared one may have spoiled it.
                None => damaged += usize::from(!raw.cleared),
            }
        }
        let mut records = join(parts, store);
        records.drain(..records.len().saturating_sub(limits::RECORDS));
        let full = store == Store::Erst && erst::is_full(file);
        Ok(Self { records, damaged, full })
    }

    /// Takes what another store had.
    pub fn extend(&mut self, other: Self) {
        self.records.extend(other.records);
        self.records.sort_by_key(|record| record.at);
        self.damaged += other.damaged;
        self.full |= other.full;
    }

    /// The latest one that may be of what is wrong now.
    #[must_use]
    pub fn latest(&self, rounds: &Rounds) -> Option<&Record> {
        self.records.iter().rev().find(|record| record.age(rounds) != Age::Earlier)
    }

    /// Reads what [`Records::to_bytes`] wrote.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).unwrap_or_default()
    }

    /// As the data of an artifact.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data becomes JSON")
    }
}

/// Whether a record tells of what is wrong now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Age {
    /// The guest answered before it, and no more after it.
    Now,
    /// The guest answered after it.
    Earlier,
    /// The guest is not known to have answered at all, or its clock is ahead.
    Unknown,
}

impl Record {
    /// Of which time it is, by the rounds that led to an incident.
    #[must_use]
    pub fn age(&self, rounds: &Rounds) -> Age {
        let after = |then: Timestamp| self.at.as_millis().saturating_sub(then.as_millis());
        match (rounds.last_answer(), rounds.rounds.last()) {
            (Some(answer), _) if after(answer) < -CLOCKS_MS => Age::Earlier,
            (Some(_), Some(last)) if after(last.at) <= CAPTURE_MS => Age::Now,
            _ => Age::Unknown,
        }
    }

    /// What the kernel reported in it.
    #[must_use]
    pub fn log(&self) -> KernelLog {
        KernelLog::read(self.text.as_bytes())
    }
}

/// Parts of one reason and count belong together, unless a guest panics at every boot: then time and
/// the repeated numbers tell.
fn join(mut parts: Vec<Part>, store: Store) -> Vec<Record> {
    parts.sort_by_key(|part| (part.at, part.number));
    let mut groups: Vec<Vec<Part>> = Vec::new();
    for part in parts {
        let alike = |group: &&mut Vec<Part>| {
            let first = &group[0];
            (&first.reason, first.count) == (&part.reason, part.count)
                && part.at.as_millis().saturating_sub(first.at.as_millis()) <= APART_MS
        };
        match groups.iter_mut().rev().find(alike) {
            // Firmware that was interrupted has one variable twice.
            Some(group) if group.contains(&part) => {}
            Some(group) if group.iter().all(|other| other.number != part.number) => {
                group.push(part);
            }
            _ => groups.push(vec![part]),
        }
    }
    groups.into_iter().map(|group| record(group, store)).collect()
}

/// The record that these parts make; there is at least one.
fn record(mut parts: Vec<Part>, store: Store) -> Record {
    let at = parts[0].at;
    parts.sort_by_key(|part| std::cmp::Reverse(part.number));
    let none_missing = parts[0].number as usize == parts.len();
    let whole = none_missing && parts.iter().all(|part| part.whole);
    let mut text = Vec::new();
    for part in &parts {
        text.extend(&part.text);
        // Whatever cut the last line of a part, the next part begins with another one.
        if !text.ends_with(b"\n") {
            text.push(b'\n');
        }
    }
    // What it said last is worth most.
    let end = text.get(text.len().saturating_sub(limits::RECORD_BYTES)..).unwrap_or_default();
    Record {
        store,
        at,
        reason: parts[0].reason.clone(),
        count: parts[0].count,
        cleared: parts.iter().any(|part| part.cleared),
        whole,
        text: String::from_utf8_lossy(end).into_owned(),
    }
}
