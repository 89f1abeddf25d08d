//! Single steps, debug registers and shadows, by Intel SDM volume 3, chapter 19, and sections 7.8.3 and 7.8.4.

use hypervisor::{Access, AddressSpace, Exit, Vcpu};

use super::*;

const TF: u64 = 1 << 8;
const RF: u64 = 1 << 16;
/// DR6 without a cause, and its causes.
const DR6: u64 = 0xffff_0ff0;
const SINGLE_STEP: u64 = 1 << 14;
const GUARDED: u64 = 1 << 13;
/// Where handlers are, 0x10 bytes each, each a `hlt`.
const HANDLERS: u16 = 0x5000;

fn machine(code: &[u8]) -> Machine {
    let machine = Machine::new(code);
    for vector in 0..32_u16 {
        let handler = HANDLERS + 0x10 * vector;
        machine.write(u64::from(vector) * 4, &[handler.to_le_bytes(), [0, 0]].concat());
        machine.write(handler.into(), &[0xf4]);
    }
    machine
}

/// The handler that has halted, where it would return to, and DR6.
fn taken(machine: &mut Machine) -> (u64, u16, u64) {
    let regs = machine.run();
    let vector = (regs.rip - 1 - u64::from(HANDLERS)) / 0x10;
    (vector, machine.read_word(regs.rsp), machine.vcpu.debug_regs().unwrap().dr6)
}

fn set_debug_regs(machine: &mut Machine, db: [u64; 4], dr7: u64) {
    let mut regs = machine.vcpu.debug_regs().unwrap();
    (regs.db, regs.dr7) = (db, dr7 | 0x400);
    machine.vcpu.set_debug_regs(&regs).unwrap();
}

#[test]
fn a_single_step_ends_a_halt() {
    let mut machine = machine(&[0xf4]);
    machine.set(|regs| regs.rflags = TF | 2);
    assert_eq!(taken(&mut machine), (1, 0x1001, DR6 | SINGLE_STEP));
}

#[test]
fn an_exit_under_a_single_step_comes_before_its_trap() {
    // out 0x10, al
    let mut machine = machine(&[0xe6, 0x10, 0x90]);
    machine.set(|regs| regs.rflags = TF | 2);
    let exit = Exit::Access(Access::write(AddressSpace::Pio, 0x10, &[0]).unwrap());
    assert_eq!(machine.vcpu.run().unwrap(), exit);
    let regs = machine.regs();
    assert_eq!((regs.rip, regs.rflags & TF, regs.rsp), (0x1002, TF, 0x8000));
    assert_eq!(taken(&mut machine), (1, 0x1002, DR6 | SINGLE_STEP));
}

#[test]
fn a_load_of_ss_keeps_traps_and_nmis_from_the_next_instruction() {
    // mov ss, ax; nop; nop
    for nmi in [false, true] {
        let mut machine = machine(&[0x8e, 0xd0, 0x90, 0x90]);
        machine.set(|regs| regs.rflags = if nmi { 2 } else { TF | 2 });
        machine.vcpu.step().unwrap();
        if nmi {
            let mut events = machine.vcpu.vcpu_events().unwrap();
            events.nmi.pending = 1;
            machine.vcpu.set_vcpu_events(&events).unwrap();
        }
        assert_eq!(machine.regs().rip, 0x1002);
        let (vector, back, _) = taken(&mut machine);
        assert_eq!((vector, back), if nmi { (2, 0x1003) } else { (1, 0x1003) });
    }
}

#[test]
fn a_software_interrupt_clears_tf_before_its_handler() {
    // int 0x12, whose handler is nop; hlt
    let mut machine = machine(&[0xcd, 0x12]);
    machine.write(u64::from(HANDLERS) + 0x120, &[0x90, 0xf4]);
    machine.set(|regs| regs.rflags = TF | 2);
    let regs = machine.run();
    assert_eq!((regs.rip, regs.rflags & TF), (u64::from(HANDLERS) + 0x122, 0));
    assert_eq!(machine.read_word(regs.rsp + 4) as u64 & TF, TF, "the frame has it");
}

#[test]
fn guarded_debug_registers_raise_and_are_guarded_no_more() {
    // mov dr0, eax
    let mut machine = machine(&[0x0f, 0x23, 0xc0]);
    set_debug_regs(&mut machine, [0; 4], GUARDED);
    assert_eq!(taken(&mut machine), (1, 0x1000, DR6 | GUARDED));
    assert_eq!(machine.vcpu.debug_regs().unwrap().dr7, 0x400);
}

#[test]
fn a_breakpoint_of_execution_is_a_fault_unless_rf_is_set() {
    // nop; nop; hlt
    let mut machine = machine(&[0x90, 0x90, 0xf4]);
    set_debug_regs(&mut machine, [0, 0x1001, 0, 0], 1 << 2);
    assert_eq!(taken(&mut machine), (1, 0x1001, DR6 | 2));
    machine.vcpu.set_mp_state(&Default::default()).unwrap();
    machine.set(|regs| (regs.rip, regs.rflags) = (0x1001, RF | 2));
    assert_eq!(machine.run().rip, 0x1003);
}

#[test]
fn breakpoints_of_data_are_traps_that_dr6_names() {
    let (write, read_write) = (1, 3);
    // mov [0x3002], al; mov al, [0x3002]
    for (code, kind, length, base, cause) in [
        (&[0xa2, 0x02, 0x30][..], write, 0, 0x3002, 1),
        (&[0xa0, 0x02, 0x30], write, 0, 0x3002, 0),
        (&[0xa0, 0x02, 0x30], read_write, 3, 0x3000, 1),
        (&[0xa2, 0x02, 0x30], read_write, 1, 0x3000, 0),
        // push ax
        (&[0x50], write, 1, 0x7ffe, 1),
    ] {
        let mut machine = machine(&[code, &[0x90, 0xf4]].concat());
        set_debug_regs(&mut machine, [base, 0, 0, 0], 1 | kind << 16 | length << 18);
        if cause == 0 {
            assert_eq!(machine.run().rip, 0x1002 + code.len() as u64, "{code:02x?}");
        } else {
            assert_eq!(taken(&mut machine), (1, 0x1000 + code.len() as u16, DR6 | cause), "{code:02x?}");
        }
    }
}

#[test]
fn a_breakpoint_of_a_port_needs_debugging_extensions() {
    for cr4 in [0, 8] {
        // in al, 0x10
        let mut machine = machine(&[0xe4, 0x10, 0xf4]);
        machine.set_sregs(|sregs| sregs.cr4 = cr4);
        set_debug_regs(&mut machine, [0, 0, 0, 0x10], 1 << 6 | 2 << 28);
        assert!(matches!(machine.vcpu.run().unwrap(), Exit::Access(_)));
        machine.vcpu.answer(&[7]).unwrap();
        if cr4 == 0 {
            assert_eq!(machine.run().rip, 0x1003);
        } else {
            assert_eq!(taken(&mut machine), (1, 0x1002, DR6 | 8));
        }
    }
}

#[test]
fn encodings_of_other_processors_are_no_ops_or_not_there() {
    // Code, whether it is an instruction, and AX behind it where AX and CX are 0x1200.
    for (code, vector, ax) in [
        (&[0xf3, 0x0f, 0xbc, 0xc1][..], None, 9),
        (&[0xf3, 0x0f, 0xbd, 0xc1], None, 12),
        (&[0xf3, 0x0f, 0x1e, 0xfa], None, 0x1200),
        (&[0x0f, 0x18, 0x07], None, 0x1200),
        (&[0x0f, 0x1f, 0x07], None, 0x1200),
        (&[0x0f, 0x0d, 0x07], None, 0x1200),
        // bswap ax
        (&[0x0f, 0xc8], None, 0),
        // rsm; vzeroupper; movbe ax, [bx]; tzcnt by VEX (andn)
        (&[0x0f, 0xaa], Some(6), 0),
        (&[0xc5, 0xf8, 0x77], Some(6), 0),
        (&[0x0f, 0x38, 0xf0, 0x07], Some(6), 0),
        (&[0xc4, 0xe2, 0x78, 0xf2, 0xc1], Some(6), 0),
        // monitor; rdpmc; sysenter; syscall; rdrand ax
        (&[0x0f, 0x01, 0xc8], Some(6), 0),
        (&[0x0f, 0x33], Some(13), 0),
        (&[0x0f, 0x34], Some(13), 0),
        (&[0x0f, 0x05], Some(6), 0),
        (&[0x0f, 0xc7, 0xf0], Some(6), 0),
    ] {
        let mut machine = machine(&[code, &[0xf4]].concat());
        machine.set(|regs| (regs.rax, regs.rcx) = (0x1200, 0x1200));
        match vector {
            None => {
                let regs = machine.run();
                assert_eq!((regs.rip, regs.rax), (0x1001 + code.len() as u64, ax), "{code:02x?}");
            }
            Some(vector) => {
                let (found, back, _) = taken(&mut machine);
                assert_eq!((found, back), (vector, 0x1000), "{code:02x?}");
            }
        }
    }
}

#[test]
fn an_interrupt_of_the_bitmap_is_injected_and_reported() {
    let mut machine = machine(&[0x90, 0xf4]);
    machine.set(|regs| regs.rflags = 0x202);
    machine.set_sregs(|sregs| sregs.interrupt_bitmap[0] = 1 << 0x12);
    assert_eq!(machine.vcpu.vcpu_events().unwrap().interrupt.injected, 1);
    assert_eq!(machine.vcpu.sregs().unwrap().interrupt_bitmap, [1 << 0x12, 0, 0, 0]);
    assert_eq!(taken(&mut machine).0, 0x12);
    assert_eq!(machine.vcpu.sregs().unwrap().interrupt_bitmap, [0; 4]);
}

#[test]
fn an_exception_that_is_pending_without_a_payload_is_none() {
    let mut machine = machine(&[0x90, 0xf4]);
    let mut events = machine.vcpu.vcpu_events().unwrap();
    (events.exception.pending, events.exception.nr) = (1, 6);
    machine.vcpu.set_vcpu_events(&events).unwrap();
    assert_eq!(machine.vcpu.vcpu_events().unwrap().exception.pending, 0);
    assert_eq!(machine.run().rip, 0x1002);
}

#[test]
fn registers_that_kvm_refuses_are_refused() {
    const PE_PG: u64 = 0x8000_0001;
    for (cr0, cr4, efer) in [
        (0x8000_0000, 0, 0),
        (0x2000_0000, 0, 0),
        (PE_PG, 0, 0x500),
        (PE_PG, 0x20, 0x400),
        (1, 0x20, 0x400),
        (0, 1 << 14, 0),
        (0, 0, 1 << 1),
        (1 << 40, 0, 0),
    ] {
        let mut machine = machine(&[0xf4]);
        let mut sregs = machine.vcpu.sregs().unwrap();
        (sregs.cr0, sregs.cr4, sregs.efer) = (cr0, cr4, efer);
        assert!(machine.vcpu.set_sregs(&sregs).is_err(), "{cr0:#x} {cr4:#x} {efer:#x}");
    }
}
