//! Decoding, and which instructions the processor has.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};

use super::exception::{Fault, Result};
use super::fast::strings::{Repeated, repeated};
use super::features::Features;
use super::ops::far_transfer::is_far;
use super::{Handler, dispatch};

/// Most bytes an instruction has (Intel SDM volume 2, section 2.3.11).
pub(super) const MAX_BYTES: u32 = 15;

/// What encodings of later processors are here: those of no-ops are no-ops, and the prefixes of BMI and others are ignored.
const OPTIONS: u32 = DecoderOptions::FORCE_RESERVED_NOP
    | DecoderOptions::NO_MPFX_0FBC
    | DecoderOptions::NO_MPFX_0FBD
    | DecoderOptions::NO_WBNOINVD;

/// An instruction with what executes it; without one it is not known.
#[derive(Clone, Copy)]
pub(super) struct Decoded {
    pub(super) instruction: Instruction,
    pub(super) handler: Option<Handler>,
    /// Its bytes, lowest first.
    bytes: u128,
    pub(super) len: u32,
    /// It changes more than general registers and memory, so that more has to be put back where it faults.
    pub(super) is_complex: bool,
    /// What it repeats, where repetitions can be made together, and the bytes of an item.
    pub(super) repeated: Option<(Repeated, u8)>,
}

/// Bytes that are no whole instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotWhole {
    /// There must be more of them.
    More,
    /// They are none: #UD.
    Invalid,
}

impl Decoded {
    /// Its bytes.
    pub(super) fn bytes(&self) -> [u8; 16] {
        self.bytes.to_le_bytes()
    }

    /// Decodes the first instruction of up to 15 bytes of code of 16, 32 or 64 bits.
    pub(super) fn of(code: &[u8], rip: u64, bits: u8, features: Features) -> std::result::Result<Self, NotWhole> {
        let mut decoder = Decoder::with_ip(bits.into(), code, rip, OPTIONS);
        let mut instruction = decoder.decode();
        // 64-bit mode ignores these prefixes: what is based on RBP or RSP stays an access to the stack.
        if bits == 64
            && matches!(instruction.segment_prefix(), Register::ES | Register::CS | Register::SS | Register::DS)
        {
            instruction.set_segment_prefix(Register::None);
        }
        if instruction.code() == Code::INVALID {
            return Err(match decoder.last_error() {
                DecoderError::NoMoreBytes => NotWhole::More,
                _ => NotWhole::Invalid,
            });
        }
        let len = instruction.len();
        let mut bytes = [0; 16];
        for (to, from) in bytes.iter_mut().zip(code).take(len) {
            *to = *from;
        }
        let offered = instruction.cpuid_features().iter().all(|&feature| features.allows(feature));
        let handler = if offered { dispatch::handler(&instruction) } else { Some(not_offered as Handler) };
        Ok(Self {
            instruction,
            handler,
            bytes: u128::from_le_bytes(bytes),
            len: len as u32,
            is_complex: is_complex(&instruction),
            repeated: repeated(&instruction),
        })
    }
}

impl Decoded {
    /// Whether something may be different after it that is looked at between blocks: where code continues, the mode, what
    /// interrupts may come.
    pub(super) fn ends_block(&self) -> bool {
        use Mnemonic as M;
        let instruction = &self.instruction;
        let register = instruction.op0_register();
        let loads_special = matches!(instruction.mnemonic(), M::Mov | M::Pop)
            && (register.is_segment_register() || register.is_cr() || register.is_dr());
        let is_system = matches!(
            instruction.mnemonic(),
            M::Cli
                | M::Sti
                | M::Popf
                | M::Popfd
                | M::Popfq
                | M::In
                | M::Out
                | M::Insb
                | M::Insw
                | M::Insd
                | M::Outsb
                | M::Outsw
                | M::Outsd
                | M::Hlt
                | M::Wrmsr
                | M::Rdmsr
                | M::Lgdt
                | M::Lidt
                | M::Lldt
                | M::Ltr
                | M::Lmsw
                | M::Clts
                | M::Clac
                | M::Stac
                | M::Invlpg
                | M::Invpcid
                | M::Invd
                | M::Wbinvd
                | M::Lds
                | M::Les
                | M::Lfs
                | M::Lgs
                | M::Lss
                | M::Swapgs
                | M::Wrfsbase
                | M::Wrgsbase
                | M::Xsetbv
                | M::Pause
        );
        instruction.flow_control() != FlowControl::Next || loads_special || is_system
    }
}

/// An instruction that CPUID does not offer.
fn not_offered(_: &mut super::Exec, _: &Instruction) -> Result<()> {
    Err(Fault::invalid_opcode())
}

/// Whether it loads segments and control registers one by one.
fn is_complex(instruction: &Instruction) -> bool {
    let is_far_branch = matches!(instruction.mnemonic(), Mnemonic::Call | Mnemonic::Jmp) && is_far(instruction);
    is_far_branch
        || matches!(
            instruction.mnemonic(),
            Mnemonic::Retf
                | Mnemonic::Iret
                | Mnemonic::Iretd
                | Mnemonic::Iretq
                | Mnemonic::Int
                | Mnemonic::Int1
                | Mnemonic::Int3
                | Mnemonic::Into
                | Mnemonic::Sysenter
                | Mnemonic::Sysexit
                | Mnemonic::Sysexitq
                | Mnemonic::Syscall
                | Mnemonic::Sysret
                | Mnemonic::Sysretq
                | Mnemonic::Lds
                | Mnemonic::Les
                | Mnemonic::Lfs
                | Mnemonic::Lgs
                | Mnemonic::Lss
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mnemonic(code: &[u8], bits: u8) -> std::result::Result<Mnemonic, NotWhole> {
        Decoded::of(code, 0, bits, Features::default()).map(|decoded| decoded.instruction.mnemonic())
    }

    #[test]
    fn prefixes_of_later_processors_are_ignored() {
        for (code, expected) in [
            (&[0xf3, 0x0f, 0xbc, 0xc1][..], Mnemonic::Bsf),
            (&[0xf3, 0x0f, 0xbd, 0xc1], Mnemonic::Bsr),
            (&[0xf3, 0x0f, 0x1e, 0xfa], Mnemonic::Reservednop),
            (&[0x0f, 0x18, 0x08], Mnemonic::Reservednop),
            (&[0x0f, 0x0d, 0x08], Mnemonic::Reservednop),
            (&[0xf3, 0x0f, 0x09], Mnemonic::Wbinvd),
            (&[0xf3, 0xc3], Mnemonic::Ret),
        ] {
            assert_eq!(mnemonic(code, 64), Ok(expected), "{code:02x?}");
        }
    }

    #[test]
    fn what_is_cut_off_is_not_what_is_invalid() {
        assert_eq!(mnemonic(&[0x48, 0x8b], 64), Err(NotWhole::More));
        assert_eq!(mnemonic(&[0x06, 0x90, 0x90], 64), Err(NotWhole::Invalid));
    }
}
