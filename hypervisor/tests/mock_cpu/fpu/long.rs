//! What 64-bit code adds: more registers, and wider ones.

use super::*;

#[test]
fn registers_of_64_bits_are_converted_and_moved() {
    let mut machine = long_machine();
    machine.set(|regs| regs.rax = 0x7fff_ffff_ffff_fc00);
    // cvtsi2sd xmm9, rax; movq xmm10, rax; cvttsd2si r8, xmm9; movq r9, xmm10
    let code = [
        0xf2, 0x4c, 0x0f, 0x2a, 0xc8, 0x66, 0x4c, 0x0f, 0x6e, 0xd0, 0xf2, 0x4d, 0x0f, 0x2c, 0xc1, 0x66, 0x4d, 0x0f,
        0x7e, 0xd1,
    ];
    assert_eq!(execute(&mut machine, &code), End::Done);
    let (regs, fpu) = (machine.regs(), fpu(&machine));
    assert_eq!((regs.r8, regs.r9), (0x7fff_ffff_ffff_fc00, 0x7fff_ffff_ffff_fc00));
    assert_eq!(fpu.xmm[9][..8], 0x43df_ffff_ffff_ffff_u64.to_le_bytes());
    assert_eq!(u128::from_le_bytes(fpu.xmm[10]), 0x7fff_ffff_ffff_fc00);
    // movmskpd rax, xmm10; pextrw r8d, xmm10, 3: what is above is 0
    machine.set(|regs| (regs.rax, regs.r8) = (u64::MAX, u64::MAX));
    let code = [0x66, 0x49, 0x0f, 0x50, 0xc2, 0x66, 0x45, 0x0f, 0xc5, 0xc2, 3];
    assert_eq!(execute(&mut machine, &code), End::Done);
    assert_eq!((machine.regs().rax, machine.regs().r8), (0, 0x7fff));
    // Without REX.W integers have 32 bits: cvtsi2sd xmm1, eax
    machine.set(|regs| regs.rax = 0x1234_5678_ffff_ffff);
    assert_eq!(execute(&mut machine, &[0xf2, 0x0f, 0x2a, 0xc8]), End::Done);
    assert_eq!(super::fpu(&machine).xmm[1][..8], (-1.0_f64).to_le_bytes());
}

#[test]
fn fxsave_has_sixteen_registers_and_wide_pointers() {
    let mut machine = long_machine();
    set_fpu(&mut machine, |fpu| fpu.xmm[15] = *b"sixteen bytes :)");
    machine.write(DATA, &[0xee; 512]);
    machine.set(|regs| (regs.rbx, regs.rdi) = (DATA, DATA + 8));
    // fld dword [rdi]; fxsave64 [rbx]
    assert_eq!(execute(&mut machine, &[0xd9, 0x07, 0x48, 0x0f, 0xae, 0x03]), End::Done);
    let image: [u8; 512] = machine.read(DATA);
    assert_eq!(image[8..24], [super::super::ENTRY.to_le_bytes(), (DATA + 8).to_le_bytes()].concat());
    assert_eq!(image[400..416], *b"sixteen bytes :)");
    assert!(image[416..].iter().all(|&byte| byte == 0xee));
    // fxsave [rbx]: with segments
    assert_eq!(execute(&mut machine, &[0xd9, 0x07, 0x0f, 0xae, 0x03]), End::Done);
    let image: [u8; 24] = machine.read(DATA);
    assert_eq!(image[8..14], [0, 0x10, 0, 0, 8, 0]);
    // fxrstor64 [rbx]
    set_fpu(&mut machine, |fpu| fpu.xmm[15] = [0; 16]);
    assert_eq!(execute(&mut machine, &[0x48, 0x0f, 0xae, 0x0b]), End::Done);
    assert_eq!(fpu(&machine).xmm[15], *b"sixteen bytes :)");
}

#[test]
fn a_page_fault_leaves_the_registers_as_they_were() {
    let mut machine = long_machine();
    let before = {
        set_stack(&mut machine, &[ONE, PI]);
        fpu(&machine)
    };
    // Beyond the first 2 MiB: fld qword [rbx]; fstp tword [rbx]; fnsave [rbx]; pxor mm0, [rbx]; movntq [rbx], mm0
    for code in
        [&[0xdd, 0x03][..], &[0xdb, 0x3b], &[0xdd, 0x33], &[0x0f, 0xef, 0x03], &[0x0f, 0xe7, 0x03], &[0x0f, 0xae, 0x0b]]
    {
        machine.set(|regs| regs.rbx = 0x20_0000);
        assert_eq!(execute(&mut machine, code), End::Exception(14), "{code:02x?}");
        assert_eq!(fpu(&machine), before, "{code:02x?}");
        // The end of the operand faults, its beginning does not.
        machine.set(|regs| regs.rbx = 0x20_0000 - 4);
        let end = if code[..2] == [0x0f, 0xae] { End::Exception(13) } else { End::Exception(14) };
        assert_eq!(execute(&mut machine, code), end, "{code:02x?}");
        assert_eq!(fpu(&machine), before, "{code:02x?}");
    }
}

#[test]
fn masked_moves_fault_only_for_bytes_they_store() {
    let mut machine = long_machine();
    let end = 0x20_0000;
    let mask = |stored: usize| std::array::from_fn(|at| if at == stored { 0x80 } else { 0 });
    // maskmovdqu xmm1, xmm2 over the end of what is mapped
    for (stored, first) in [(10, 2), (8, 0)] {
        machine.set(|regs| regs.rdi = end - 8);
        set_fpu(&mut machine, |fpu| fpu.xmm[2] = mask(stored));
        assert_eq!(execute(&mut machine, &[0x66, 0x0f, 0xf7, 0xca]), End::Exception(14));
        assert_eq!(machine.vcpu.sregs().unwrap().cr2, end + first);
    }
    // Nothing is stored there.
    set_fpu(&mut machine, |fpu| fpu.xmm[2] = [0; 16]);
    machine.set(|regs| regs.rdi = end - 8);
    assert_eq!(execute(&mut machine, &[0x66, 0x0f, 0xf7, 0xca]), End::Done);
}

#[test]
fn masked_moves_at_the_end_of_addresses_wrap_around() {
    let mut machine = long_machine();
    machine.set(|regs| regs.rdi = u64::MAX - 3);
    set_fpu(&mut machine, |fpu| {
        (fpu.xmm[1], fpu.xmm[2]) = ([9; 16], std::array::from_fn(|at| if at >= 8 { 0x80 } else { 0 }))
    });
    let end = execute(&mut machine, &[0x66, 0x0f, 0xf7, 0xca]);
    assert!(matches!(end, End::Done | End::Exception(12..=14)), "{end:?}");
}
