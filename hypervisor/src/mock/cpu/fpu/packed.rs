//! What MMX and SSE2 do to lanes of integers, and what they do to all bits.

use iced_x86::{Instruction, Mnemonic};

use super::super::exception::Result;
use super::super::{Exec, Handler};
use super::host_sse::{self, Execute, Operands};
use super::operands::is_mm;

macro_rules! handlers {
    ($mnemonic:expr, $($function:ident { $($name:ident $text:literal)* })*) => {
        match $mnemonic {
            $($(Mnemonic::$name => |exec, instruction| {
                $function(exec, instruction, host_sse::packed!($text, " xmm0, xmm1"))
            },)*)*
            _ => return None,
        }
    };
}

pub(in super::super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    let handler: Handler = handlers! { mnemonic,
        lanes {
            Paddb "paddb" Paddw "paddw" Paddd "paddd" Paddq "paddq"
            Paddsb "paddsb" Paddsw "paddsw" Paddusb "paddusb" Paddusw "paddusw"
            Psubb "psubb" Psubw "psubw" Psubd "psubd" Psubq "psubq"
            Psubsb "psubsb" Psubsw "psubsw" Psubusb "psubusb" Psubusw "psubusw"
            Pcmpeqb "pcmpeqb" Pcmpeqw "pcmpeqw" Pcmpeqd "pcmpeqd"
            Pcmpgtb "pcmpgtb" Pcmpgtw "pcmpgtw" Pcmpgtd "pcmpgtd"
            Pmulhw "pmulhw" Pmulhuw "pmulhuw" Pmullw "pmullw" Pmuludq "pmuludq" Pmaddwd "pmaddwd"
            Pavgb "pavgb" Pavgw "pavgw" Psadbw "psadbw"
            Pmaxsw "pmaxsw" Pmaxub "pmaxub" Pminsw "pminsw" Pminub "pminub"
            Pand "pand" Pandn "pandn" Por "por" Pxor "pxor"
            Andps "andps" Andpd "andpd" Andnps "andnps" Andnpd "andnpd"
            Orps "orps" Orpd "orpd" Xorps "xorps" Xorpd "xorpd"
            Psllw "psllw" Pslld "pslld" Psllq "psllq"
            Psrlw "psrlw" Psrld "psrld" Psrlq "psrlq" Psraw "psraw" Psrad "psrad"
            Punpcklbw "punpcklbw" Punpcklwd "punpcklwd" Punpckldq "punpckldq" Punpcklqdq "punpcklqdq"
            Unpcklps "unpcklps" Unpcklpd "unpcklpd" Unpckhps "unpckhps" Unpckhpd "unpckhpd"
        }
        high_halves {
            Punpckhbw "punpckhbw" Punpckhwd "punpckhwd" Punpckhdq "punpckhdq" Punpckhqdq "punpckhqdq"
        }
        packs {
            Packsswb "packsswb" Packssdw "packssdw" Packuswb "packuswb"
        }
    };
    Some(handler)
}

/// Gets both operands, executes, and sets the destination. Of MMX registers `enter` makes what the host gets, and `leave` gets
/// the result's 64 bits from what it gives.
fn execute(
    exec: &mut Exec,
    instruction: &Instruction,
    execute: Execute,
    enter: fn(u128, u128) -> (u128, u128),
    leave: fn(u128) -> u128,
) -> Result<()> {
    let mmx = is_mm(instruction, 0);
    let src = exec.begin_vector(instruction)?;
    let dst = exec.vector(instruction.op0_register());
    let (dst, src) = if mmx { enter(dst, src) } else { (dst, src) };
    let mut operands = Operands { dst, src, ..Default::default() };
    execute(&mut operands);
    let result = if mmx { leave(operands.dst) } else { operands.dst };
    exec.set_vector(instruction.op0_register(), result);
    Ok(())
}

/// The low lanes of the result come from the low lanes of the operands, so 64 bits are the low half of 128.
fn lanes(exec: &mut Exec, instruction: &Instruction, host: Execute) -> Result<()> {
    execute(exec, instruction, host, |dst, src| (dst, src), |result| result)
}

/// The result comes from the operands' high halves.
fn high_halves(exec: &mut Exec, instruction: &Instruction, host: Execute) -> Result<()> {
    execute(exec, instruction, host, |dst, src| (dst << 64, src << 64), |result| result >> 64)
}

/// The result's halves come from one operand each.
fn packs(exec: &mut Exec, instruction: &Instruction, host: Execute) -> Result<()> {
    let both = |dst, src| (dst | src << 64, dst | src << 64);
    execute(exec, instruction, host, both, |result| result)
}
