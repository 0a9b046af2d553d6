//! Who called whom: by ORC where the kernel has it, else by the frames that its functions keep.
//!
//! A stack is read once, so that it is of one moment, and unwound from that copy; only what lies
//! elsewhere, as the stacks of interrupts do, is read from the guest as it goes.

use super::orc::{Base, Entry, Orc, Shape};
use crate::kernel::machine::Registers;
use crate::kernel::memory::Fault;
use crate::kernel::space::Space;

/// Deeper stacks are shown up to here.
const FRAMES: usize = 96;

/// Words that the kernel stores of a process or of what it interrupts: all registers, in the order of
/// `pt_regs`, or the five that the CPU stores.
const ALL: usize = 21;
const INTERRUPT: usize = 5;

/// Where a stack was unwound to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::kernel) enum End {
    /// To where the kernel was entered from a process.
    User,
    /// To where the task began.
    Start,
    /// Not to its end.
    Lost,
}

/// One call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::kernel) struct Call {
    /// Where it returns to, or where it is.
    pub(in crate::kernel) at: u64,
    /// Whether it is where a CPU is, rather than where a call returns to.
    pub(in crate::kernel) is_exact: bool,
}

/// A part of a stack, of one moment.
pub(in crate::kernel) struct Stack<'s, 'm> {
    pub(in crate::kernel) space: &'s Space<'m>,
    pub(in crate::kernel) at: u64,
    pub(in crate::kernel) bytes: Vec<u8>,
}

/// Where the unwinding is.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Cursor {
    ip: u64,
    sp: u64,
    bp: u64,
    is_exact: bool,
    /// Registers that are only known where all of them were stored.
    others: Option<Others>,
}

#[derive(Clone, Copy, Debug)]
struct Others {
    r10: u64,
    r13: u64,
    dx: u64,
    di: u64,
}

/// What one step led to.
enum Step {
    Caller(Cursor),
    End(End),
}

impl Stack<'_, '_> {
    pub(in crate::kernel) fn u64(&self, at: u64) -> Result<u64, Fault> {
        let place = usize::try_from(at.wrapping_sub(self.at)).ok();
        let copied = place.and_then(|place| self.bytes.get(place..)?.first_chunk());
        copied.map_or_else(|| self.space.u64(at), |word| Ok(u64::from_le_bytes(*word)))
    }

    fn words<const N: usize>(&self, at: u64) -> Result<[u64; N], Fault> {
        let mut words = [0; N];
        for (place, word) in (0..).zip(&mut words) {
            *word = self.u64(at.wrapping_add(place * 8))?;
        }
        Ok(words)
    }
}

impl Cursor {
    /// A task that does not run: where it will go on.
    pub(in crate::kernel) fn asleep(ip: u64, sp: u64, bp: u64) -> Self {
        Self { ip, sp, bp, is_exact: false, others: None }
    }

    /// A CPU.
    pub(in crate::kernel) fn running(cpu: &Registers) -> Self {
        let others = Others { r10: cpu.r10, r13: cpu.r13, dx: cpu.rdx, di: cpu.rdi };
        Self { ip: cpu.rip, sp: cpu.rsp, bp: cpu.rbp, is_exact: true, others: Some(others) }
    }

    /// All calls, the innermost first.
    pub(in crate::kernel) fn unwind(
        mut self,
        stack: &Stack<'_, '_>,
        orc: Option<&Orc>,
        is_text: &dyn Fn(u64) -> bool,
    ) -> (Vec<Call>, End) {
        let mut calls = Vec::new();
        while calls.len() < FRAMES {
            calls.push(Call { at: self.ip, is_exact: self.is_exact });
            let step = match orc {
                Some(orc) => self.by_orc(stack, orc),
                None => self.by_frames(stack),
            };
            match step {
                Ok(Step::Caller(caller)) if is_text(caller.ip) => self = caller,
                Ok(Step::End(end)) => return (calls, end),
                Ok(Step::Caller(_)) | Err(_) => return (calls, End::Lost),
            }
        }
        (calls, End::Lost)
    }

    fn by_orc(&self, stack: &Stack<'_, '_>, orc: &Orc) -> Result<Step, Fault> {
        // A call at the end of a function returns to the next one.
        let place = if self.is_exact { self.ip } else { self.ip.wrapping_sub(1) };
        let Some(entry) = orc.at(stack.space, place)? else { return Ok(Step::End(End::Lost)) };
        match entry.shape {
            Shape::Undefined => return Ok(Step::End(End::Lost)),
            Shape::End => return Ok(Step::End(End::Start)),
            Shape::Call | Shape::Registers | Shape::Interrupt => {}
        }
        let Some(frame) = self.frame(stack, &entry)? else { return Ok(Step::End(End::Lost)) };
        let caller = match entry.shape {
            Shape::Registers => return Self::stored(stack, frame, entry.signal),
            Shape::Interrupt => return self.interrupted(stack, frame, entry.signal),
            Shape::Call | Shape::Undefined | Shape::End => Self {
                ip: stack.u64(frame.wrapping_sub(8))?,
                sp: frame,
                bp: self.bp_of(stack, frame, &entry)?,
                is_exact: entry.signal.unwrap_or(false),
                others: None,
            },
        };
        // A stack that does not shrink was tampered with, or is another one than it says.
        Ok(if caller.sp > self.sp { Step::Caller(caller) } else { Step::End(End::Lost) })
    }

    /// The stack pointer of the caller, or where registers are stored.
    fn frame(&self, stack: &Stack<'_, '_>, entry: &Entry) -> Result<Option<u64>, Fault> {
        let offset = entry.sp_offset as u64;
        let other = |of: fn(&Others) -> u64| {
            self.others.as_ref().map(|others| of(others).wrapping_add(offset))
        };
        Ok(match entry.sp {
            Base::Sp => Some(self.sp.wrapping_add(offset)),
            Base::Bp => Some(self.bp.wrapping_add(offset)),
            Base::SpIndirect => Some(stack.u64(self.sp)?.wrapping_add(offset)),
            Base::BpIndirect => Some(stack.u64(self.bp.wrapping_add(offset))?),
            Base::R10 => other(|others| others.r10),
            Base::R13 => other(|others| others.r13),
            Base::Dx => other(|others| others.dx),
            Base::Di => other(|others| others.di),
            Base::Undefined | Base::Previous => None,
        })
    }

    fn bp_of(&self, stack: &Stack<'_, '_>, frame: u64, entry: &Entry) -> Result<u64, Fault> {
        let offset = entry.bp_offset as u64;
        match entry.bp {
            Base::Previous => stack.u64(frame.wrapping_add(offset)),
            Base::Bp => stack.u64(self.bp.wrapping_add(offset)),
            Base::Undefined
            | Base::Sp
            | Base::SpIndirect
            | Base::BpIndirect
            | Base::R10
            | Base::R13
            | Base::Dx
            | Base::Di => Ok(self.bp),
        }
    }

    /// Behind registers that were all stored.
    fn stored(stack: &Stack<'_, '_>, at: u64, signal: Option<bool>) -> Result<Step, Fault> {
        let words: [u64; ALL] = stack.words(at)?;
        if words[17] & 3 != 0 {
            return Ok(Step::End(End::User));
        }
        let others = Others { r10: words[7], r13: words[2], dx: words[12], di: words[14] };
        Ok(Step::Caller(Self {
            ip: words[16],
            sp: words[19],
            bp: words[4],
            is_exact: signal.unwrap_or(true),
            others: Some(others),
        }))
    }

    /// Behind what the CPU itself stored.
    fn interrupted(
        &self,
        stack: &Stack<'_, '_>,
        at: u64,
        signal: Option<bool>,
    ) -> Result<Step, Fault> {
        let words: [u64; INTERRUPT] = stack.words(at)?;
        if words[1] & 3 != 0 {
            return Ok(Step::End(End::User));
        }
        let is_exact = signal.unwrap_or(true);
        Ok(Step::Caller(Self { ip: words[0], sp: words[3], is_exact, ..*self }))
    }

    /// Where the kernel was entered, its frame pointer says where the registers are, marked by its
    /// lowest bit.
    fn by_frames(&self, stack: &Stack<'_, '_>) -> Result<Step, Fault> {
        if self.bp == 0 {
            return Ok(Step::End(End::Start));
        }
        if self.bp & 1 == 1 {
            return Self::stored(stack, self.bp - 1, None);
        }
        let [bp, ip] = stack.words(self.bp)?;
        let goes_up = bp == 0 || bp & 1 == 1 || bp > self.bp;
        let caller = Self { ip, sp: self.bp.wrapping_add(16), bp, is_exact: false, others: None };
        Ok(if goes_up { Step::Caller(caller) } else { Step::End(End::Lost) })
    }
}
