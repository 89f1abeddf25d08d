//! Where this KVM is known not to do what the processor's manual says about user mode, so that a difference is not the mock's.

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::layout::CODE;
use crate::differential::End;
use crate::differential::machine::Outcome;

/// A behaviour of KVM's that the mock does not follow.
#[derive(Clone, Copy)]
pub struct Quirk {
    /// What to count it under.
    pub name: &'static str,
    /// Why it is KVM's.
    pub reason: &'static str,
    applies: fn(&Run) -> bool,
}

/// All there are.
pub const QUIRKS: [Quirk; 1] = [Quirk {
    name: "not-known-to-kvm",
    reason: "KVM's emulator makes the accesses that exit, and gives up on an instruction that it does not know",
    applies: |run| run.kvm.end == End::InternalError && run.last().is_some(),
}];

/// A program that both ran.
struct Run<'a> {
    code: &'a [u8],
    kvm: &'a Outcome,
    _mock: &'a Outcome,
}

impl Run<'_> {
    /// The instruction of the program that KVM stopped at.
    fn last(&self) -> Option<Instruction> {
        let offset = usize::try_from(self.kvm.regs.rip.checked_sub(CODE.start)?).ok()?;
        let mut decoder = Decoder::with_ip(64, self.code.get(offset..)?, self.kvm.regs.rip, DecoderOptions::NONE);
        decoder.can_decode().then(|| decoder.decode())
    }
}

/// The quirk that explains what KVM did with a program, where the mock did otherwise.
pub fn explanation(code: &[u8], kvm: &Outcome, mock: &Outcome) -> Option<&'static Quirk> {
    let run = Run { code, kvm, _mock: mock };
    QUIRKS.iter().find(|quirk| (quirk.applies)(&run))
}
