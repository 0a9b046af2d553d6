//! Which lock a task waits for, and who holds it.
//!
//! Who waits puts itself into the lock's list, by a node on its own stack that names the task. So
//! the task's own address on its stack leads to the node, and the list to the lock: it is the one node
//! that is on nobody's stack. Since 7.1 a lock has no such node, and only names who waits first. Then it
//! is found on the stack as well, where who waits keeps it: it is what names one of those that wait. What
//! kind of lock it is tells the function in which the task waits.

use super::Kernel;
use super::memory::Fault;
use super::open::place;
use super::space::Space;
use super::tasks::{Task, Tasks, Trail};
use super::types::layout::{self, Field};
use super::types::{Types, TypesError};
use super::unwind::Stack;
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

/// The structures of locks, and of those that wait for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layouts {
    pub(super) mutex: layout::Mutex,
    pub(super) mutex_waiter: layout::MutexWaiter,
    pub(super) rwsem: layout::Rwsem,
    pub(super) rwsem_waiter: layout::RwsemWaiter,
    pub(super) wait_entry: layout::WaitEntry,
    pub(super) percpu_rwsem: layout::PercpuRwsem,
}

/// How those that wait for a lock hang together.
#[derive(Clone, Copy, Debug)]
struct Form {
    /// The node in who waits.
    node: Field,
    /// The task in who waits.
    task: Field,
    /// The head of the list in the lock.
    head: Option<Field>,
    /// In the lock, where it names who waits first; then the list has no head.
    first: Option<Field>,
}

/// Finds locks; remembers the lists that it has followed.
pub(super) struct Locks<'k, 'm> {
    kernel: &'k Kernel<'m>,
    /// Where stacks begin.
    stacks: BTreeSet<u64>,
    /// The lock that a node leads to.
    known: BTreeMap<u64, u64>,
}

impl Layouts {
    pub(super) fn of(types: &Types, space: &Space<'_>) -> Result<Self, TypesError> {
        Ok(Self {
            mutex: layout::Mutex::of(types, space)?,
            mutex_waiter: layout::MutexWaiter::of(types, space)?,
            rwsem: layout::Rwsem::of(types, space)?,
            rwsem_waiter: layout::RwsemWaiter::of(types, space)?,
            wait_entry: layout::WaitEntry::of(types, space)?,
            percpu_rwsem: layout::PercpuRwsem::of(types, space)?,
        })
    }

    fn form(&self, kind: Lock) -> Form {
        let Self { mutex, mutex_waiter, rwsem, rwsem_waiter, wait_entry, percpu_rwsem } = self;
        let (node, task, head, first) = match kind {
            Lock::Mutex => (mutex_waiter.list, mutex_waiter.task, mutex.waiters, mutex.first),
            Lock::Rwsem => (rwsem_waiter.list, rwsem_waiter.task, rwsem.waiters, rwsem.first),
            Lock::PercpuRwsem => {
                (wait_entry.list, wait_entry.private, Some(percpu_rwsem.waiters), None)
            }
        };
        Form { node, task, head, first }
    }
}

impl<'k, 'm> Locks<'k, 'm> {
    pub(super) fn new(kernel: &'k Kernel<'m>, tasks: &Tasks) -> Self {
        let stacks = tasks.all.values().map(|task| task.stack).collect();
        Self { kernel, stacks, known: BTreeMap::new() }
    }

    /// What a task waits for, by its stack.
    pub(super) fn wait(
        &mut self,
        tasks: &Tasks,
        task: &Task,
        trail: &Trail<'_, '_>,
        frames: &[Frame],
    ) -> Result<Option<Wait>, Fault> {
        let kind = frames.iter().take(DEPTH).find_map(|frame| kind(frame.name()));
        let (Some(kind), Some(layouts)) = (kind, self.kernel.layouts.locks) else {
            return Ok(None);
        };
        let form = layouts.form(kind);
        for (at, _) in words(&trail.stack).filter(|(_, word)| *word == task.at) {
            let waiter = at.wrapping_sub(u64::from(form.task.offset));
            let lock = match self.lock(&form, place(waiter, form.node), &trail.stack) {
                Err(Fault::Spent) => return Err(Fault::Spent),
                lock => lock.ok().flatten(),
            };
            if let Some(at) = lock {
                return Ok(Some(Wait { kind, at, owner: self.owner(tasks, kind, at)? }));
            }
        }
        Ok(None)
    }

    /// The lock that those wait for who are in a list with a node.
    fn lock(
        &mut self,
        form: &Form,
        node: u64,
        stack: &Stack<'_, '_>,
    ) -> Result<Option<u64>, Fault> {
        let mut nodes = BTreeSet::new();
        let mut at = node;
        let lock = loop {
            if let Some(lock) = self.known.get(&at) {
                break *lock;
            }
            let next = self.kernel.space.u64(at)?;
            // A node that the next one does not know is none: something else lay on the stack.
            if self.kernel.space.u64(next.wrapping_add(8))? != at || nodes.len() > WAITERS {
                return Ok(None);
            }
            nodes.insert(at);
            at = next;
            let found = match (form.head, form.first) {
                (Some(head), _) if !self.is_on_stack(at) => {
                    break at.wrapping_sub(u64::from(head.offset));
                }
                (None, Some(first)) if at == node => self.naming(first, form, &nodes, stack)?,
                _ if nodes.contains(&at) || !self.is_on_stack(at) => None,
                _ => continue,
            };
            match found {
                Some(lock) => break lock,
                None => return Ok(None),
            }
        };
        self.known.extend(nodes.into_iter().map(|node| (node, lock)));
        Ok(Some(lock))
    }

    /// What is named on a stack, and names one of these nodes as the first.
    fn naming(
        &self,
        first: Field,
        form: &Form,
        nodes: &BTreeSet<u64>,
        stack: &Stack<'_, '_>,
    ) -> Result<Option<u64>, Fault> {
        for (_, word) in words(stack).filter(|(_, word)| *word != 0 && word % 8 == 0) {
            let names = place(word, first);
            // Nodes on stacks name each other.
            if self.is_on_stack(names) {
                continue;
            }
            match self.kernel.space.u64(names) {
                Ok(waiter) if nodes.contains(&place(waiter, form.node)) => return Ok(Some(word)),
                Err(Fault::Spent) => return Err(Fault::Spent),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(None)
    }

    fn is_on_stack(&self, address: u64) -> bool {
        let before = self.stacks.range(..=address).next_back();
        before.is_some_and(|stack| address - stack < self.kernel.stack_bytes)
    }

    fn owner(&self, tasks: &Tasks, kind: Lock, lock: u64) -> Result<Option<u64>, Fault> {
        let layouts = self.kernel.layouts.locks.as_ref();
        let owner = match kind {
            Lock::Mutex => layouts.map(|layouts| layouts.mutex.owner),
            Lock::Rwsem => layouts.map(|layouts| layouts.rwsem.owner),
            Lock::PercpuRwsem => None,
        };
        let Some(owner) = owner else { return Ok(None) };
        let word = self.kernel.space.u64(place(lock, owner))?;
        let is_known = kind == Lock::Mutex || word & READER == 0;
        Ok(Some(word & !FLAGS).filter(|owner| is_known && tasks.all.contains_key(owner)))
    }
}

/// The words of a stack, and where they are.
fn words<'s>(stack: &'s Stack<'_, '_>) -> impl Iterator<Item = (u64, u64)> + 's {
    let words = stack.bytes.chunks_exact(8);
    let words =
        words.map(|word| u64::from_le_bytes(word.first_chunk().copied().unwrap_or_default()));
    (0_u64..).map(|number| stack.at.wrapping_add(number * 8)).zip(words)
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
