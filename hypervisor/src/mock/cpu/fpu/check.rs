//! Which exception keeps an instruction from being begun (Intel SDM volume 3, tables 2-2 and 14-1).

use super::super::Exec;
use super::super::exception::{Exception, Fault, Result};
use super::super::mode::{CR0_EM, CR0_MP, CR0_TS, CR4_OSFXSR, CR4_OSXMMEXCPT};

/// What an instruction works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// x87, without a check for pending exceptions.
    X87NoWait,
    X87,
    Mmx,
    Sse,
    /// XMM and MMX registers.
    SseAndMmx,
    /// `fxsave` and `fxrstor`, which belong to no unit.
    Save,
    /// `xsave` and `xrstor`.
    XSave,
}

/// #MF
fn x87_exception() -> Fault {
    Fault::Exception(Exception::new(16, None))
}

/// Checks that an instruction of this unit can begin.
#[inline]
pub(super) fn ready(exec: &Exec, unit: Unit) -> Result<()> {
    let (cr0, cr4) = (exec.state.sregs.cr0, exec.state.sregs.cr4);
    let emulated_is_invalid = matches!(unit, Unit::Mmx | Unit::Sse | Unit::SseAndMmx);
    let needs_osfxsr = matches!(unit, Unit::Sse | Unit::SseAndMmx);
    if emulated_is_invalid && cr0 & CR0_EM != 0 || needs_osfxsr && cr4 & CR4_OSFXSR == 0 {
        return Err(Fault::invalid_opcode());
    }
    let stops = if unit == Unit::XSave { CR0_TS } else { CR0_EM | CR0_TS };
    if cr0 & stops != 0 {
        return Err(Fault::no_fpu());
    }
    let waits = matches!(unit, Unit::X87 | Unit::Mmx | Unit::SseAndMmx);
    if waits { no_pending(exec) } else { Ok(()) }
}

/// `wait`: only MP lets TS stop it.
pub(super) fn wait(exec: &Exec) -> Result<()> {
    let both = CR0_MP | CR0_TS;
    if exec.state.sregs.cr0 & both == both { Err(Fault::no_fpu()) } else { no_pending(exec) }
}

/// #MF also with CR0.NE clear, as on KVM: no FERR# leads to IRQ 13.
fn no_pending(exec: &Exec) -> Result<()> {
    if exec.state.fpu.has_pending_exception() { Err(x87_exception()) } else { Ok(()) }
}

/// What an unmasked SSE exception is: #XM, or #UD where the system does not handle that.
pub(super) fn sse_exception(exec: &Exec) -> Fault {
    match exec.state.sregs.cr4 & CR4_OSXMMEXCPT {
        0 => Fault::invalid_opcode(),
        _ => Fault::Exception(Exception::new(19, None)),
    }
}
