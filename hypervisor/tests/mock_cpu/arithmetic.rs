//! Results and flags of what computes.

use super::*;

/// Code, RAX, RCX, RDX and flags before; RAX, RDX and flags after.
type Row = (&'static [u8], [u64; 4], [u64; 3]);

fn check(rows: &[Row], flags: u64) {
    for (code, [rax, rcx, rdx, before], [rax_after, rdx_after, flags_after]) in rows {
        let regs = after(code, |regs| (regs.rax, regs.rcx, regs.rdx, regs.rflags) = (*rax, *rcx, *rdx, before | 2));
        let got = [regs.rax, regs.rdx, regs.rflags & flags];
        assert_eq!(got, [*rax_after, *rdx_after, *flags_after], "{code:02x?} with {rax:#x} {rcx:#x} {rdx:#x}");
    }
}

#[test]
fn operands_have_one_two_or_four_bytes_and_only_four_clear_what_is_above() {
    check(
        &[
            // add al, cl; add ax, cx; add eax, ecx
            (&[0x00, 0xc8], [0xffff_ffff_ffff_ffff, 1, 0, 0], [0xffff_ffff_ffff_ff00, 0, CF | ZF | AF | PF]),
            (&[0x01, 0xc8], [0xffff_ffff_ffff_ffff, 1, 0, 0], [0xffff_ffff_ffff_0000, 0, CF | ZF | AF | PF]),
            (&[0x66, 0x01, 0xc8], [0xffff_ffff_ffff_fffe, 1, 0, 0], [0xffff_ffff, 0, SF | PF]),
            // add ah, cl
            (&[0x00, 0xcc], [0xff12, 2, 0, 0], [0x0112, 0, CF | AF]),
            // add ax, -1 (a byte that is extended)
            (&[0x83, 0xc0, 0xff], [0, 0, 0, 0], [0xffff, 0, SF | PF]),
            // inc ax and dec ax keep the carry
            (&[0x40], [0x7fff, 0, 0, CF], [0x8000, 0, CF | SF | OF | AF | PF]),
            (&[0x48], [0, 0, 0, 0], [0xffff, 0, SF | AF | PF]),
            // adc al, cl; sbb al, cl
            (&[0x10, 0xc8], [0xfe, 1, 0, CF], [0, 0, CF | ZF | AF | PF]),
            (&[0x18, 0xc8], [0, 0, 0, CF], [0xff, 0, CF | SF | AF | PF]),
            // neg al, of 0 and of -128; not al leaves the flags
            (&[0xf6, 0xd8], [0, 0, 0, 0], [0, 0, ZF | PF]),
            (&[0xf6, 0xd8], [0x80, 0, 0, 0], [0x80, 0, CF | SF | OF]),
            (&[0xf6, 0xd0], [0x0f, 0, 0, CF | OF], [0xf0, 0, CF | OF]),
            // xor ax, ax; test ax, ax
            (&[0x31, 0xc0], [0x1234, 0, 0, CF | OF], [0, 0, ZF | PF]),
            (&[0x85, 0xc0], [0x8001, 0, 0, CF], [0x8001, 0, SF]),
        ],
        STATUS,
    );
}

#[test]
fn products_and_quotients_go_to_their_pairs() {
    check(
        &[
            // mul cl; mul cx; mul ecx
            (&[0xf6, 0xe1], [0x1280, 2, 0, 0], [0x0100, 0, CF | OF]),
            (&[0xf7, 0xe1], [0x8000, 4, 7, 0], [0, 2, CF | OF]),
            (&[0x66, 0xf7, 0xe1], [3, 4, 7, CF | OF], [12, 0, 0]),
            // imul cl; imul ax, cx; imul ax, cx, -2
            (&[0xf6, 0xe9], [0xff, 0xff, 0, CF | OF], [1, 0, 0]),
            (&[0x0f, 0xaf, 0xc1], [0x4000, 2, 9, 0], [0x8000, 9, CF | OF]),
            (&[0x6b, 0xc1, 0xfe], [0, 3, 9, 0], [0xfffa, 9, 0]),
            // div cl; div cx; idiv cl; idiv ecx
            (&[0xf6, 0xf1], [0x0107, 0x10, 0, 0], [0x0710, 0, 0]),
            (&[0xf7, 0xf1], [5, 0x10, 1, 0], [0x1000, 5, 0]),
            (&[0xf6, 0xf9], [0xfff9, 2, 0, 0], [0xfffd, 0, 0]),
            (&[0x66, 0xf7, 0xf9], [7, 0xffff_fffe, 0, 0], [0xffff_fffd, 1, 0]),
        ],
        CF | OF,
    );
}

#[test]
fn decimal_adjustments_are_those_of_the_manuals_examples() {
    check(
        &[
            // add al, cl; daa (the manual's example: 79 + 35 = 114 in decimal digits)
            (&[0x00, 0xc8, 0x27], [0x79, 0x35, 0, 0], [0x14, 0, CF | AF | PF]),
            // sub al, cl; das (35 - 47 = -12, which is 88 and a borrow)
            (&[0x28, 0xc8, 0x2f], [0x35, 0x47, 0, 0], [0x88, 0, CF | SF | AF | PF]),
            // das of 5 with AF: the borrow of the lower digit is one of the whole
            (&[0x2f], [0x05, 0, 0, AF], [0xff, 0, CF | SF | AF | PF]),
            // aaa, aas
            (&[0x37], [0x000b, 0, 0, 0], [0x0101, 0, CF | AF]),
            (&[0x3f], [0x02ff, 0, 0, 0], [0x0109, 0, CF | AF | PF]),
            // aam, aad
            (&[0xd4, 10], [63, 0, 0, 0], [0x0603, 0, PF]),
            (&[0xd5, 10], [0x0603, 0, 0, 0], [63, 0, PF]),
        ],
        STATUS,
    );
}

#[test]
fn single_bits_are_found_and_changed() {
    check(
        &[
            // bt ax, cx; bts eax, 31; btr ax, 0; btc ax, cx with a number beyond the width
            (&[0x0f, 0xa3, 0xc8], [0x10, 20, 0, 0], [0x10, 0, CF]),
            (&[0x66, 0x0f, 0xba, 0xe8, 31], [0, 0, 0, CF], [0x8000_0000, 0, 0]),
            (&[0x0f, 0xba, 0xf0, 0], [3, 0, 0, 0], [2, 0, CF]),
            (&[0x0f, 0xbb, 0xc8], [0, 17, 0, CF], [2, 0, 0]),
            // bsf ax, cx; bsr eax, ecx; bsf ax, cx of 0
            (&[0x0f, 0xbc, 0xc1], [0, 0x0900, 0, ZF], [8, 0, 0]),
            (&[0x66, 0x0f, 0xbd, 0xc1], [0, 0x0900, 0, ZF], [11, 0, 0]),
            (&[0x0f, 0xbc, 0xc1], [7, 0, 0, 0], [7, 0, ZF]),
        ],
        CF | ZF,
    );
}

#[test]
fn a_bit_in_memory_may_lie_far_from_its_operand() {
    // bts [0x3000], cx; bts [0x3000], cx with -1
    let mut machine = Machine::new(&[0x0f, 0xab, 0x0e, 0x00, 0x30, 0x49, 0x49, 0x0f, 0xab, 0x0e, 0x00, 0x30, 0xf4]);
    machine.set(|regs| regs.rcx = 1);
    machine.run();
    assert_eq!((machine.read_word(0x3000), machine.read_word(0x2ffe)), (2, 0x8000));
}

#[test]
fn values_are_extended_exchanged_and_turned_around() {
    check(
        &[
            // cbw; cwde; cwd; cdq
            (&[0x98], [0x80, 0, 0, 0], [0xff80, 0, 0]),
            (&[0x66, 0x98], [0x8000, 0, 0, 0], [0xffff_8000, 0, 0]),
            (&[0x99], [0x8000, 0, 1, 0], [0x8000, 0xffff, 0]),
            (&[0x66, 0x99], [0x7fff_ffff, 0, 1, 0], [0x7fff_ffff, 0, 0]),
            // movzx ax, cl; movsx eax, cx
            (&[0x0f, 0xb6, 0xc1], [0xffff, 0x80, 0, 0], [0x80, 0, 0]),
            (&[0x66, 0x0f, 0xbf, 0xc1], [0, 0x8000, 0, 0], [0xffff_8000, 0, 0]),
            // xchg ax, dx; bswap eax; xadd ax, dx
            (&[0x92], [1, 0, 2, 0], [2, 1, 0]),
            (&[0x66, 0x0f, 0xc8], [0x1122_3344, 0, 0, 0], [0x4433_2211, 0, 0]),
            (&[0x0f, 0xc1, 0xd0], [1, 0, 2, 0], [3, 1, 0]),
            // cmpxchg cx, dx: equal, so cx is written; then not, so ax is loaded
            (&[0x0f, 0xb1, 0xd1, 0x89, 0xc8], [5, 5, 9, 0], [9, 9, ZF]),
            (&[0x0f, 0xb1, 0xd1], [5, 6, 9, 0], [6, 9, 0]),
            // stc; setc al; sbb dx, dx; cmovz ax, cx (not zero)
            (&[0xf9, 0x0f, 0x92, 0xc0, 0x19, 0xd2, 0x0f, 0x44, 0xc1], [0, 7, 0, 0], [1, 0xffff, 0]),
        ],
        ZF,
    );
}

#[test]
fn an_exchange_of_eight_bytes_compares_them_all() {
    // cmpxchg8b [0x3000], twice
    let code = [0x0f, 0xc7, 0x0e, 0x00, 0x30];
    let mut machine = Machine::new(&[&code[..], &code, &[0xf4]].concat());
    machine.write(0x3000, &[1, 0, 0, 0, 2, 0, 0, 0]);
    machine.set(|regs| (regs.rax, regs.rdx, regs.rbx, regs.rcx) = (1, 2, 3, 4));
    let regs = machine.run();
    assert_eq!(machine.read(0x3000), [3, 0, 0, 0, 4, 0, 0, 0]);
    assert_eq!((regs.rax, regs.rdx, regs.rflags & ZF), (3, 4, 0), "the second found what the first has written");
}

#[test]
fn addresses_of_16_bits_wrap_and_those_of_32_bits_scale() {
    // mov al, [bx + si + 0x10]; mov ah, [ebx + 4 * ecx]
    let mut machine = Machine::new(&[0x8a, 0x40, 0x10, 0x67, 0x8a, 0x24, 0x8b, 0xf4]);
    machine.write(0x3000, &[0x11]);
    machine.write(0x4000, &[0x22]);
    machine.set(|regs| (regs.rbx, regs.rsi, regs.rcx) = (0x3ff0, 0xf000, 4));
    assert_eq!(machine.run().rax & 0xffff, 0x2211);
}

#[test]
fn the_stack_takes_all_registers_and_frames() {
    // pusha; mov bp, sp; mov ax, [bp + 6] (SP as it was); popa
    let regs = after(&[0x60, 0x89, 0xe5, 0x8b, 0x46, 0x06, 0xa3, 0x00, 0x30, 0x61], |regs| {
        (regs.rax, regs.rbp, regs.rdi) = (1, 2, 3);
    });
    assert_eq!((regs.rax, regs.rbp, regs.rdi, regs.rsp), (1, 2, 3, 0x8000));
    // enter 8, 2; leave
    let mut machine = Machine::new(&[0xc8, 8, 0, 2, 0xf4, 0xc9, 0xf4]);
    machine.write(0x6ffe, &[0xcd, 0xab]);
    machine.set(|regs| regs.rbp = 0x7000);
    let regs = machine.run();
    assert_eq!((regs.rbp, regs.rsp), (0x7ffe, 0x7ffe - 4 - 8));
    assert_eq!([0x7ffe, 0x7ffc, 0x7ffa].map(|at| machine.read_word(at)), [0x7000, 0xabcd, 0x7ffe]);
}

#[test]
fn a_frame_of_32_bits_takes_esp_whole_on_a_stack_of_16_bits() {
    // enter 0, 0 with 32-bit operands: the stack moves in SP, and EBP becomes ESP (SDM, volume 2, ENTER).
    let regs = after(&[0x66, 0xc8, 0, 0, 0], |regs| regs.rsp = 0x0012_8000);
    assert_eq!((regs.rbp, regs.rsp), (0x0012_7ffc, 0x0012_7ffc));
}
