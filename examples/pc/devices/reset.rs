//! The ports by which a guest resets a PC.

/// The PCI chip set's; within the bytes of PCI's address, but a port of its own.
pub(crate) const RESET_CONTROL: u16 = 0xcf9;
/// What is written there to reset.
pub(crate) const RESET: u8 = 0x06;
/// The keyboard controller's command port.
const KEYBOARD: u16 = 0x64;
/// System control port A, which also lets address line 20 through.
pub(crate) const PORT_A: u16 = 0x92;

/// What port A reads as: line 20 is let through, always.
pub(crate) const PORT_A_VALUE: u8 = 0x02;

/// Whether this write resets the PC.
pub(crate) fn resets(port: u16, value: u8) -> bool {
    match port {
        RESET_CONTROL => value & 0x04 != 0,
        // Pulse the line to the processor's reset.
        KEYBOARD => value == 0xfe,
        PORT_A => value & 0x01 != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_ports_reset_by_values_of_their_own() {
        for (port, value) in [(0xcf9, 0x06), (0xcf9, 0x04), (0x64, 0xfe), (0x92, 0x01), (0x92, 0x03)] {
            assert!(resets(port, value), "{value:#x} to {port:#x}");
        }
        for (port, value) in [(0xcf9, 0x02), (0x64, 0xff), (0x92, 0x02), (0x60, 0xfe), (0xcf8, 0x06)] {
            assert!(!resets(port, value), "{value:#x} to {port:#x}");
        }
    }
}
