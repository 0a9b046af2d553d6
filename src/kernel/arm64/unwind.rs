//! Who called whom: by the records that functions keep of their frames.
//!
//! A record is two words, where the caller's record is and where the call returns to, and X29 leads to
//! the innermost one. Where the kernel is entered it makes one of what it interrupts, within the
//! registers that it stores, and an empty one where there was no kernel below:
//!
//! ```text
//!   cpu_context.fp --> {fp, lr} --> {fp, lr} --> {fp, pc} in pt_regs --> .. --> {0, 0} in pt_regs
//! ```
//!
//! Kernels from 6.13 on leave the record of what they interrupt empty as well, and mark it.
//!
//! Return addresses may be signed; the signature lies in the bits that no address uses.

use super::registers::{Registers, is_user};
use crate::kernel::Kernel;
use crate::kernel::memory::Fault;
use crate::kernel::open::place;
use crate::kernel::space::Space;
use crate::kernel::types::{Types, TypesError, layout};
use crate::kernel::unwind::{Call, End, FRAMES, Stack};

/// A CPU has a stack for each of its tasks, one for interrupts, and some for what must not happen.
const STACKS: usize = 4;

/// `FRAME_META_TYPE_PT_REGS`: the registers around the record are the kernel's own.
const INTERRUPTED: u64 = 2;

/// X29 and X30 among all that are stored.
const FP: u64 = 29;
const LR: u64 = 30;

/// The structures that unwinding takes.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct Layouts {
    pub(super) context: layout::CpuContext,
    pub(super) exception: layout::Exception,
    pub(in crate::kernel) mark: layout::FrameMark,
    address_bits: u32,
}

/// Unwinds stacks of one kernel.
pub(in crate::kernel) struct Unwinder {
    layouts: Layouts,
}

/// Where the unwinding is.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    pc: u64,
    fp: u64,
    /// Where the CPU itself is, rather than where a call returns to: X30.
    exact: Option<u64>,
    /// How often another stack was gone to.
    stacks: usize,
}

/// What one step led to.
enum Step {
    Caller(Cursor),
    End(End),
}

impl Layouts {
    pub(in crate::kernel) fn of(
        address_bits: u32,
        types: &Types,
        space: &Space<'_>,
    ) -> Result<Self, TypesError> {
        Ok(Self {
            context: layout::CpuContext::of(types, space)?,
            exception: layout::Exception::of(types, space)?,
            mark: layout::FrameMark::of(types, space)?,
            address_bits,
        })
    }
}

impl Unwinder {
    pub(in crate::kernel) fn new(layouts: Layouts) -> Self {
        Self { layouts }
    }

    /// The task's structure has where it will go on.
    pub(in crate::kernel) fn asleep(
        &self,
        kernel: &Kernel<'_>,
        stack: &Stack<'_, '_>,
        saved: u64,
    ) -> Result<(Vec<Call>, End), Fault> {
        let context = &self.layouts.context;
        let at = saved.wrapping_sub(u64::from(context.sp.offset));
        let word = |field| kernel.space.u64(place(at, field));
        let (pc, fp) = (self.plain(word(context.pc)?), word(context.fp)?);
        Ok(self.unwind(kernel, stack, Cursor { pc, fp, exact: None, stacks: 0 }))
    }

    pub(in crate::kernel) fn running(
        &self,
        kernel: &Kernel<'_>,
        stack: &Stack<'_, '_>,
        cpu: &Registers,
    ) -> Option<(Vec<Call>, End)> {
        let is_in_kernel = !cpu.is_user() && kernel.is_text(cpu.pc);
        let cursor = Cursor { pc: cpu.pc, fp: cpu.fp, exact: Some(cpu.lr), stacks: 0 };
        is_in_kernel.then(|| self.unwind(kernel, stack, cursor))
    }

    fn unwind(
        &self,
        kernel: &Kernel<'_>,
        stack: &Stack<'_, '_>,
        mut cursor: Cursor,
    ) -> (Vec<Call>, End) {
        let mut calls = Vec::new();
        while calls.len() < FRAMES {
            calls.push(Call { at: cursor.pc, is_exact: cursor.exact.is_some() });
            match self.step(kernel, stack, &cursor) {
                Ok(Step::Caller(caller)) if kernel.is_text(caller.pc) => cursor = caller,
                Ok(Step::End(end)) => return (calls, end),
                Ok(Step::Caller(_)) | Err(_) => return (calls, End::Lost),
            }
        }
        (calls, End::Lost)
    }

    fn step(
        &self,
        kernel: &Kernel<'_>,
        stack: &Stack<'_, '_>,
        cursor: &Cursor,
    ) -> Result<Step, Fault> {
        let [fp, returns] = stack.words(cursor.fp)?;
        if let Some(pc) =
            cursor.exact.and_then(|lr| self.unrecorded(kernel, cursor.pc, lr, returns))
        {
            return Ok(Step::Caller(Cursor { pc, exact: None, ..*cursor }));
        }
        let caller = match (fp, returns) {
            (0, 0) if self.is_marked(stack, cursor.fp)? => self.stored(stack, cursor.fp)?,
            (0, 0) => return self.first(stack, cursor.fp).map(Step::End),
            _ => {
                let stored = self.stored(stack, cursor.fp).ok();
                // It is the record that the kernel made if the registers around it say the same.
                let stored = stored.filter(|stored| (stored.fp, stored.pc) == (fp, returns));
                stored.unwrap_or(Cursor { pc: self.plain(returns), fp, exact: None, stacks: 0 })
            }
        };
        // A stack that does not shrink was tampered with, unless another one goes on.
        let is_near = caller.fp.abs_diff(cursor.fp) < kernel.stack_bytes;
        let stacks = cursor.stacks + usize::from(!is_near);
        if is_near && caller.fp <= cursor.fp || stacks > STACKS {
            return Ok(Step::End(End::Lost));
        }
        Ok(Step::Caller(Cursor { stacks, ..caller }))
    }

    /// Where a function without a record returns to: X30 leads out of a function only if nothing was
    /// called there so far, and the record is that of its caller unless it returns to the same place.
    fn unrecorded(&self, kernel: &Kernel<'_>, pc: u64, lr: u64, returns: u64) -> Option<u64> {
        let lr = self.plain(lr);
        if lr == self.plain(returns) || !kernel.is_text(lr) {
            return None;
        }
        let function = |at| Some(kernel.symbol(at).ok()??.0.start);
        let (own, other) = (function(pc)?, function(lr.wrapping_sub(4))?);
        (own != other).then_some(lr)
    }

    /// Whether an empty record is of what the kernel interrupted in itself.
    fn is_marked(&self, stack: &Stack<'_, '_>, record: u64) -> Result<bool, Fault> {
        let Some(kind) = self.layouts.mark.kind else { return Ok(false) };
        Ok(stack.u64(place(record, kind))? == INTERRUPTED)
    }

    /// What was interrupted, by the registers around a record.
    fn stored(&self, stack: &Stack<'_, '_>, record: u64) -> Result<Cursor, Fault> {
        let layout = &self.layouts.exception;
        let at = self.around(record);
        let general = |number: u64| stack.u64(place(at, layout.registers).wrapping_add(number * 8));
        let (pc, fp, lr) = (stack.u64(place(at, layout.pc))?, general(FP)?, general(LR)?);
        Ok(Cursor { pc, fp, exact: Some(lr), stacks: 0 })
    }

    /// What the empty record says: a thread of the kernel begins with registers that were never a
    /// process's.
    fn first(&self, stack: &Stack<'_, '_>, record: u64) -> Result<End, Fault> {
        let pstate = stack.u64(place(self.around(record), self.layouts.exception.pstate))?;
        Ok(if is_user(pstate) { End::User } else { End::Start })
    }

    /// The stored registers that a record lies in.
    fn around(&self, record: u64) -> u64 {
        record.wrapping_sub(u64::from(self.layouts.exception.frame.offset))
    }

    /// An address without its signature.
    fn plain(&self, address: u64) -> u64 {
        address | u64::MAX.checked_shl(self.layouts.address_bits).unwrap_or_default()
    }
}
