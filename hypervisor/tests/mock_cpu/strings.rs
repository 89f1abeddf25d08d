//! String instructions.

use super::*;

#[test]
fn repetitions_move_indices_and_counter() {
    // rep movsw
    let mut machine = Machine::new(&[0xf3, 0xa5, 0xf4]);
    machine.write(0x2000, b"abcdef");
    machine.set(|regs| (regs.rsi, regs.rdi, regs.rcx) = (0x2000, 0x3000, 3));
    let regs = machine.run();
    assert_eq!(machine.read(0x3000), *b"abcdef\0");
    assert_eq!((regs.rsi, regs.rdi, regs.rcx), (0x2006, 0x3006, 0));
}

#[test]
fn the_direction_flag_turns_them_around() {
    // rep stosb
    let mut machine = Machine::new(&[0xf3, 0xaa, 0xf4]);
    machine.set(|regs| (regs.rax, regs.rdi, regs.rcx, regs.rflags) = (0x55, 0x3003, 3, DF | 2));
    let regs = machine.run();
    assert_eq!(machine.read(0x3000), [0, 0x55, 0x55, 0x55, 0]);
    assert_eq!(regs.rdi, 0x3000);
}

#[test]
fn comparisons_end_at_the_first_difference_and_searches_at_the_first_find() {
    // repe cmpsb
    let mut machine = Machine::new(&[0xf3, 0xa6, 0xf4]);
    machine.write(0x2000, b"abcX");
    machine.write(0x3000, b"abcY");
    machine.set(|regs| (regs.rsi, regs.rdi, regs.rcx) = (0x2000, 0x3000, 10));
    let regs = machine.run();
    assert_eq!((regs.rsi, regs.rcx, regs.rflags & (CF | ZF)), (0x2004, 6, CF));
    // repne scasb
    let mut machine = Machine::new(&[0xf2, 0xae, 0xf4]);
    machine.write(0x3000, b"abc");
    machine.set(|regs| (regs.rax, regs.rdi, regs.rcx) = (u64::from(b'b'), 0x3000, 10));
    let regs = machine.run();
    assert_eq!((regs.rdi, regs.rcx, regs.rflags & ZF), (0x3002, 8, ZF));
}

#[test]
fn a_counter_of_zero_does_nothing() {
    for code in [[0xf3, 0xa4], [0xf3, 0xa6], [0xf3, 0x6c], [0xf3, 0x6e]] {
        let regs = after(&code, |regs| regs.rflags = ZF | 2);
        assert_eq!((regs.rsi, regs.rdi, regs.rflags & ZF), (0, 0, ZF), "{code:02x?}");
    }
}

#[test]
fn a_prefix_changes_the_sources_segment_alone() {
    // es lodsb
    let mut machine = Machine::new(&[0x26, 0xac, 0xf4]);
    machine.write(0x2345, &[0x77]);
    machine.set_sregs(|sregs| sregs.es.base = 0x2000);
    machine.set(|regs| regs.rsi = 0x345);
    assert_eq!(machine.run().rax, 0x77);
}
