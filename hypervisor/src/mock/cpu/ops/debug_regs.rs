//! Debug registers, and the breakpoints they hold (Intel SDM volume 3, chapter 19).

use iced_x86::Register;

use super::super::Exec;
use super::super::exception::{Exception, Fault, Result};
use super::super::mode::CR4_DE;

/// DR6: the trap of a single step.
pub(in super::super) const DR6_SINGLE_STEP: u64 = 1 << 14;
/// DR6: a debug register was touched while DR7 guards them.
const DR6_GUARDED: u64 = 1 << 13;
/// DR6: which breakpoints were met.
pub(in super::super) const DR6_BREAKPOINTS: u64 = 0xf;
/// DR6: bits that can be written, and those that are always set.
const DR6_BITS: (u64, u64) = (0xe00f, 0xffff_0ff0);
/// DR7: the same.
const DR7_BITS: (u64, u64) = (0xffff_2bff, 0x400);
/// DR7: guard the debug registers.
pub(in super::super) const DR7_GUARD: u64 = 1 << 13;

/// What a breakpoint is for: the two bits of DR7 for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Watched {
    Execution,
    Read,
    Write,
    Port,
}

/// The number of a debug register, 0 to 7 without 4 and 5, which stand for 6 and 7 unless CR4 forbids it.
fn number(exec: &Exec, register: Register) -> Result<usize> {
    let number = register as usize - Register::DR0 as usize;
    if matches!(number, 4 | 5) && exec.state.sregs.cr4 & CR4_DE != 0 || number > 7 {
        return Err(Fault::invalid_opcode());
    }
    if exec.state.debug_regs.dr7 & DR7_GUARD != 0 {
        return Err(Fault::Exception(Exception::debug(DR6_GUARDED)));
    }
    Ok(if matches!(number, 4 | 5) { number + 2 } else { number })
}

pub(super) fn get(exec: &mut Exec, register: Register) -> Result<u64> {
    let number = number(exec, register)?;
    let debug = &exec.state.debug_regs;
    Ok(match number {
        6 => debug.dr6,
        7 => debug.dr7,
        number => debug.db.get(number).copied().unwrap_or_default(),
    })
}

pub(super) fn set(exec: &mut Exec, register: Register, value: u64) -> Result<()> {
    let number = number(exec, register)?;
    if number >= 6 && value >> 32 != 0 {
        return Err(Fault::protection(0));
    }
    let debug = &mut exec.state.debug_regs;
    match number {
        6 => debug.dr6 = value & DR6_BITS.0 | DR6_BITS.1,
        7 => debug.dr7 = value & DR7_BITS.0 | DR7_BITS.1,
        number => {
            if let Some(register) = debug.db.get_mut(number) {
                *register = value;
            }
        }
    }
    exec.state.refresh_mode();
    Ok(())
}

impl Exec<'_> {
    /// The breakpoints that an access of `len` bytes meets, as bits of DR6.
    pub(in super::super) fn met_breakpoints(&self, address: u64, len: u64, what: Watched) -> u64 {
        let debug = &self.state.debug_regs;
        let is_met = |number: u32, base: u64| {
            let enabled = debug.dr7 >> (2 * number) & 3 != 0;
            let watches = match (debug.dr7 >> (16 + 4 * number) & 3, what) {
                (0, Watched::Execution) | (1, Watched::Write) | (3, Watched::Read | Watched::Write) => true,
                (2, Watched::Port) => self.state.sregs.cr4 & CR4_DE != 0,
                _ => false,
            };
            let size = match debug.dr7 >> (18 + 4 * number) & 3 {
                _ if what == Watched::Execution => 1,
                0 => 1,
                1 => 2,
                2 => 8,
                _ => 4,
            };
            let base = base & !(size - 1);
            enabled && watches && address < base.saturating_add(size) && base < address.saturating_add(len)
        };
        (0..)
            .zip(debug.db)
            .filter(|&(number, base)| is_met(number, base))
            .fold(0, |bits, (number, _)| bits | 1 << number)
    }

    /// Notes the breakpoints that an access of the instruction under way meets. Their trap comes after it.
    #[cold]
    pub(in super::super) fn watch(&mut self, address: u64, len: u64, what: Watched) {
        self.watched |= self.met_breakpoints(address, len, what);
    }
}
