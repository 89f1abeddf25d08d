//! Programs written in assembly, and the interrupts they take.

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, al, ax};

use super::{ENTRY, Program, interrupts};

/// Pin 0 of the first PIC has this vector, pin 7 of the second one 0x2f.
const FIRST_VECTOR: u8 = 0x20;

impl Program {
    /// Instructions of 16-bit real mode, written with [`CodeAssembler`]; its registers are in [`asm`](crate::asm).
    ///
    /// # Panics
    ///
    /// If they have no encoding.
    #[must_use]
    pub fn assemble(self, write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        let address = ENTRY + self.code.len() as u64;
        let code = assembled(address, write).unwrap_or_else(|error| panic!("the guest's program: {error}"));
        self.code_only(&code)
    }

    /// A handler for interrupt `line`, 0 to 15 as a PC's PICs have them. AX is as before when it has returned, and the
    /// interrupt is acknowledged. The PICs are made ready, with all lines open, where the first handler is written; the
    /// program itself opens interrupts, by `sti`.
    ///
    /// # Panics
    ///
    /// If there is no such line, or the handler has no encoding.
    #[must_use]
    pub fn irq(self, line: u8, write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Self {
        assert!(line < 16, "the PICs have the lines 0 to 15, not {line}");
        let mut program = if self.vectors.is_empty() { self.code_only(&interrupts::pics().code) } else { self };
        // The handler lies behind a jump over it.
        const JUMP: u64 = 3;
        let address = ENTRY + program.code.len() as u64 + JUMP;
        let handler = assembled(address, |a| {
            a.push(ax)?;
            write(a)?;
            // The end of the interrupt that was taken last.
            a.mov(al, 0x20)?;
            if line >= 8 {
                a.out(0xa0, al)?;
            }
            a.out(0x20, al)?;
            a.pop(ax)?;
            a.iret()
        });
        let handler = handler.unwrap_or_else(|error| panic!("the handler of line {line}: {error}"));
        let [low, high] = u16::try_from(handler.len()).expect("a handler of less than 64 KiB").to_le_bytes();
        program = program.code_only(&[0xe9, low, high]).code_only(&handler);
        program.vectors.push((FIRST_VECTOR + line, address as u16));
        program
    }
}

fn assembled(
    address: u64,
    write: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<Vec<u8>, IcedError> {
    let mut assembler = CodeAssembler::new(16)?;
    write(&mut assembler)?;
    assembler.assemble(address)
}
