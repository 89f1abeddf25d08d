//! The demo's guest: adds two numbers, waits for its serial port, prints two lines, asks for its end.

/// The first data port of a PC's first serial port.
pub(super) const SERIAL: u64 = 0x3f8;
/// Its line status register.
pub(super) const LINE_STATUS: u64 = SERIAL + 5;
/// The bit there that says a byte may be written.
pub(super) const READY: u8 = 0x20;
/// A write here asks the plugin to end the VM.
pub(super) const END: u64 = 0xf4;

/// Where the program lies and begins in guest memory.
pub(super) const ENTRY: u64 = 0x1000;
/// What the plugin puts into AL.
pub(super) const FIRST: u8 = 2;
/// What the plugin puts into BL.
pub(super) const SECOND: u8 = 3;

/// 16-bit code. It adds AL and BL.
const CODE: [u8; 32] = [
    0x00, 0xd8, //             add al, bl
    0x04, b'0', //             add al, '0'         ; a number below 10 becomes its digit
    0xa2, 0x2b, 0x10, //       mov [0x102b], al    ; in place of the '?' in the text
    0xba, 0xfd, 0x03, //       mov dx, LINE_STATUS
    0xec, //             wait: in al, dx
    0xa8, READY, //            test al, READY
    0x74, 0xfb, //             jz wait
    0xba, 0xf8, 0x03, //       mov dx, SERIAL
    0xbe, 0x20, 0x10, //       mov si, 0x1020      ; where the text begins
    0xb9, 40, 0x00, //         mov cx, 40          ; how long it is
    0xac, //             next: lodsb               ; al = [si], si += 1
    0xee, //                   out dx, al
    0xe2, 0xfc, //             loop next           ; as often as cx says
    0xe6, 0xf4, //             out END, al
    0xeb, 0xfe, //       stay: jmp stay
];

/// What it prints. It lies behind the code.
const TEXT: [u8; 40] = *b"The sum is ?.\nGreetings from the guest.\n";

/// All that lies at [`ENTRY`].
pub(super) fn program() -> Vec<u8> {
    [&CODE[..], &TEXT].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 16-bit operand behind the opcode at `at`.
    fn operand(at: usize) -> usize {
        u16::from_le_bytes([CODE[at + 1], CODE[at + 2]]).into()
    }

    #[test]
    fn the_codes_addresses_are_those_of_the_text() {
        let program = program();
        let at = |address: usize| &program[address - ENTRY as usize..];
        assert!(at(operand(4)).starts_with(b"?"), "where the digit goes");
        assert!(at(operand(18)).starts_with(&TEXT), "where the text begins");
        assert_eq!(operand(21), TEXT.len());
    }
}
