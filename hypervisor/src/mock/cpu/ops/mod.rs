//! The instructions, by group.

pub(super) mod alu;
pub(super) mod bcd;
pub(super) mod bit_test;
pub(super) mod branch;
pub(super) mod control_regs;
pub(super) mod cpuid_msr;
pub(super) mod debug_regs;
pub(super) mod descriptor;
pub(super) mod far_transfer;
pub(super) mod flag_ops;
pub(super) mod interrupts;
pub(super) mod io;
pub(super) mod iret;
pub(super) mod mov;
pub(super) mod muldiv;
pub(super) mod nop;
pub(super) mod processor;
pub(super) mod shifts;
pub(super) mod stack;
pub(super) mod strings;
pub(super) mod syscall;
pub(super) mod task_switch;
