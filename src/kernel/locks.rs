//! Which lock a task waits for, and who holds it.
//!
//! Who waits puts itself into the lock's list, by a node on its own stack that names the task. So
//! the task's own address on its stack leads to the node, and the list to the lock: it is the one node
//! that is on nobody's stack. What kind of lock it is tells the function in which the task waits.

use super::Kernel;
use super::memory::Fault;
use super::open::place;
use super::tasks::{Task, Tasks, Trail};
use super::types::layout::Field;
use crate::evidence::memory::Lock;
use crate::evidence::trace::Frame;
use std::collections::{BTreeMap, BTreeSet};

/// How many may wait for one lock.
const WAITERS: usize = 16_384;

/// An owner is the address of a task; its lowest bits say more about the lock.
const FLAGS: u64 = 7;

/// The owner of a semaphore is one of its readers, perhaps of several, perhaps gone.
const READER: u64 = 1;

/// How many calls it takes from the wait to the lock's own function.
const DEPTH: usize = 8;

/// What a task waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wait {
    pub(super) kind: Lock,
    /// Where the lock is.
    pub(super) at: u64,
    /// The task that holds it.
    pub(super) owner: Option<u64>,
}

/// Finds locks; remembers the lists that it has followed.
pub(super) struct Locks<'k, 'm> {
    kernel: &'k Kernel<'m>,
    /// Where stacks begin.
    stacks: BTreeSet<u64>,
    /// The head of the list that a node is in.
    heads: BTreeMap<u64, u64>,
}

impl<'k, 'm> Locks<'k, 'm> {
    pub(super) fn new(kernel: &'k Kernel<'m>, tasks: &Tasks) -> Self {
        let stacks = tasks.all.values().map(|task| task.stack).collect();
        Self { kernel, stacks, heads: BTreeMap::new() }
    }

    /// What a task waits for, by its stack.
    pub(super) fn wait(
        &mut self,
        tasks: &Tasks,
        task: &Task,
        trail: &Trail<'_, '_>,
        frames: &[Frame],
    ) -> Result<Option<Wait>, Fault> {
        let Some(kind) = frames.iter().take(DEPTH).find_map(|frame| kind(frame.name())) else {
            return Ok(None);
        };
        let (node, names_task, list) = self.form(kind);
        let words = trail
            .stack
            .bytes
            .chunks_exact(8)
            .map(|word| word.first_chunk().copied().unwrap_or_default());
        for (number, word) in (0_u64..).zip(words) {
            if u64::from_le_bytes(word) != task.at {
                continue;
            }
            let waiter =
                trail.stack.at.wrapping_add(number * 8).wrapping_sub(u64::from(names_task.offset));
            let head = match self.head(place(waiter, node)) {
                Err(Fault::Spent) => return Err(Fault::Spent),
                head => head.ok().flatten(),
            };
            if let Some(head) = head {
                let at = head.wrapping_sub(u64::from(list.offset));
                return Ok(Some(Wait { kind, at, owner: self.owner(tasks, kind, at)? }));
            }
        }
        Ok(None)
    }

    /// Where the node and the task are in a waiter, and where the list is in the lock.
    fn form(&self, kind: Lock) -> (Field, Field, Field) {
        let layouts = &self.kernel.layouts;
        match kind {
            Lock::Mutex => {
                (layouts.mutex_waiter.list, layouts.mutex_waiter.task, layouts.mutex.waiters)
            }
            Lock::Rwsem => {
                (layouts.rwsem_waiter.list, layouts.rwsem_waiter.task, layouts.rwsem.waiters)
            }
            Lock::PercpuRwsem => {
                (layouts.wait_entry.list, layouts.wait_entry.private, layouts.percpu_rwsem.waiters)
            }
        }
    }

    /// The head of the list that a node is in, if it is in one.
    fn head(&mut self, node: u64) -> Result<Option<u64>, Fault> {
        let mut nodes = Vec::new();
        let mut at = node;
        let head = loop {
            if let Some(head) = self.heads.get(&at) {
                break *head;
            }
            let next = self.kernel.space.u64(at)?;
            // A node that the next one does not know is none: something else lay on the stack.
            if next == at || self.kernel.space.u64(next.wrapping_add(8))? != at {
                return Ok(None);
            }
            nodes.push(at);
            at = next;
            if !self.is_on_stack(at) {
                break at;
            }
            if at == node || nodes.len() > WAITERS {
                return Ok(None);
            }
        };
        self.heads.extend(nodes.into_iter().map(|node| (node, head)));
        Ok(Some(head))
    }

    fn is_on_stack(&self, address: u64) -> bool {
        let before = self.stacks.range(..=address).next_back();
        before.is_some_and(|stack| address - stack < self.kernel.stack_bytes)
    }

    fn owner(&self, tasks: &Tasks, kind: Lock, lock: u64) -> Result<Option<u64>, Fault> {
        let layouts = &self.kernel.layouts;
        let owner = match kind {
            Lock::Mutex => layouts.mutex.owner,
            Lock::Rwsem => layouts.rwsem.owner,
            Lock::PercpuRwsem => return Ok(None),
        };
        let word = self.kernel.space.u64(place(lock, owner))?;
        let is_known = kind == Lock::Mutex || word & READER == 0;
        Ok(Some(word & !FLAGS).filter(|owner| is_known && tasks.all.contains_key(owner)))
    }
}

/// The kind of lock that is waited for in a function.
fn kind(function: &str) -> Option<Lock> {
    const BEGINS: [(&str, Lock); 8] = [
        ("__mutex_lock", Lock::Mutex),
        ("__ww_mutex_lock", Lock::Mutex),
        ("rwsem_down_", Lock::Rwsem),
        ("down_read", Lock::Rwsem),
        ("down_write", Lock::Rwsem),
        ("percpu_rwsem_wait", Lock::PercpuRwsem),
        ("__percpu_down_read", Lock::PercpuRwsem),
        ("percpu_down_write", Lock::PercpuRwsem),
    ];
    BEGINS.iter().find(|(begin, _)| function.starts_with(begin)).map(|(_, kind)| *kind)
}
