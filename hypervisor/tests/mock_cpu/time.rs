//! The PIT's clock, moved by the test.

use std::time::Duration;

use super::*;

/// Nanoseconds of 1000 counts at 1,193,182 a second, rounded down.
const THOUSAND: Duration = Duration::from_nanos(838_095);

/// A guest with interrupts from the first pin of the first PIC alone, at vector 0x20, and 1000 counts in mode 2; it halts.
fn machine() -> Machine {
    let writes =
        [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 3), (0x21, 0xfe), (0x43, 0x34), (0x40, 0xe8), (0x40, 3)];
    // mov al, value; out port, al
    let mut code: Vec<u8> = writes.into_iter().flat_map(|(port, value)| [0xb0, value, 0xe6, port]).collect();
    // again: sti; hlt; jmp again
    code.extend([0xfb, 0xf4, 0xeb, 0xfc]);
    let machine = Machine::new(&code);
    // The handler counts: inc bx; iret
    machine.write(0x20 * 4, &[0x00, 0x50, 0, 0]);
    machine.write(0x5000, &[0x43, 0xcf]);
    machine.vm.advance(Duration::ZERO);
    machine
}

#[test]
fn no_interrupt_comes_before_its_time() {
    let mut machine = machine();
    assert_eq!(machine.run().rbx, 0);
    machine.vm.advance(THOUSAND - Duration::from_nanos(1));
    assert_eq!(machine.run().rbx, 0);
    machine.vm.advance(Duration::from_nanos(1));
    assert_eq!(machine.run().rbx, 1);
    assert_eq!(machine.run().rbx, 1);
}

#[test]
fn a_long_time_has_all_its_interrupts() {
    let mut machine = machine();
    machine.run();
    machine.vm.advance(5 * THOUSAND);
    assert_eq!(machine.run().rbx, 5);
}
