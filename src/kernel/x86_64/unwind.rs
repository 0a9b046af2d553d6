//! Who called whom: by ORC where the kernel has it, else by the frames that its functions keep.

use super::orc::{Base, Entry, Orc, Shape, Table};
use super::registers::Registers;
use crate::kernel::Kernel;
use crate::kernel::memory::Fault;
use crate::kernel::modules::Module;
use crate::kernel::open::place;
use crate::kernel::space::Space;
use crate::kernel::symbols::Symbols;
use crate::kernel::types::{Types, TypesError, layout};
use crate::kernel::unwind::{Call, End, FRAMES, Stack};
use std::ops::Range;

/// Words that the kernel stores of a process or of what it interrupts: all registers, in the order of
/// `pt_regs`, or the five that the CPU stores.
const ALL: usize = 21;
const INTERRUPT: usize = 5;

/// The structures that unwinding takes.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Layouts {
    frame: layout::InactiveFrame,
    orc: layout::OrcEntry,
}

/// Unwinds stacks of one kernel.
pub(in crate::kernel) struct Unwinder {
    frame: layout::InactiveFrame,
    orc: Option<Orc>,
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

impl Layouts {
    pub(in crate::kernel) fn of(types: &Types, space: &Space<'_>) -> Result<Self, TypesError> {
        Ok(Self {
            frame: layout::InactiveFrame::of(types, space)?,
            orc: layout::OrcEntry::of(types, space)?,
        })
    }
}

impl Unwinder {
    pub(in crate::kernel) fn new(
        layouts: Layouts,
        space: &Space<'_>,
        symbols: &Symbols,
        text: &[Range<u64>],
        modules: &[Module],
    ) -> Result<Self, Fault> {
        let Layouts { frame, orc } = layouts;
        let symbol = |name| symbols.maybe(name);
        let (Some(places), Some(end), Some(entries), Some(first)) = (
            symbol("__start_orc_unwind_ip"),
            symbol("__stop_orc_unwind_ip"),
            symbol("__start_orc_unwind"),
            symbol("__switch_to_asm"),
        ) else {
            return Ok(Self { frame, orc: None });
        };
        let count = end.saturating_sub(places) / 4;
        let mut tables = vec![Table { code: text.to_vec(), places, entries, count }];
        tables.extend(modules.iter().filter_map(|module| module.orc.clone()));
        Ok(Self { frame, orc: Orc::new(space, orc, tables, first)? })
    }

    /// A task that does not run left on top of its stack where it will go on.
    pub(in crate::kernel) fn asleep(
        &self,
        kernel: &Kernel<'_>,
        stack: &Stack<'_, '_>,
    ) -> Result<(Vec<Call>, End), Fault> {
        let word = |field| stack.u64(place(stack.at, field));
        let (ip, bp) = (word(self.frame.ret_addr)?, word(self.frame.bp)?);
        let caller = place(stack.at, self.frame.ret_addr).wrapping_add(8);
        Ok(self.unwind(kernel, stack, Cursor::asleep(ip, caller, bp)))
    }

    pub(in crate::kernel) fn running(
        &self,
        kernel: &Kernel<'_>,
        stack: &Stack<'_, '_>,
        cpu: &Registers,
    ) -> Option<(Vec<Call>, End)> {
        let is_in_kernel = !cpu.is_user() && kernel.is_text(cpu.rip);
        is_in_kernel.then(|| self.unwind(kernel, stack, Cursor::running(cpu)))
    }

    fn unwind(
        &self,
        kernel: &Kernel<'_>,
        stack: &Stack<'_, '_>,
        cursor: Cursor,
    ) -> (Vec<Call>, End) {
        cursor.unwind(stack, self.orc.as_ref(), &|at| kernel.is_text(at))
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
