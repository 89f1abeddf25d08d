//! Leading vCPUs by hand: steps, breakpoints, history, lockstep.

use std::num::NonZeroU32;

use hypervisor::mock::Lockstep;
use hypervisor::{Exit, Vcpu};

use super::*;

/// Counts in AX, and tells port 0x10 each time: inc ax; out 0x10, al; jmp back.
const COUNT: [u8; 5] = [0x40, 0xe6, 0x10, 0xeb, 0xfb];

#[test]
fn a_step_is_one_instruction_and_a_breakpoint_comes_before_its_own() {
    let mut machine = Machine::new(&[0x40, 0x40, 0x40, 0xeb, 0xfb]);
    assert_eq!(machine.vcpu.step().unwrap(), Stop::Stepped);
    assert_eq!((machine.regs().rax, machine.vcpu.address()), (1, 0x1001));
    assert_eq!(machine.vcpu.run_to(&[0x1003, 0x2000]).unwrap(), Stop::Breakpoint);
    assert_eq!((machine.regs().rax, machine.vcpu.address()), (3, 0x1003));
    assert_eq!(machine.vcpu.run_to(&[0x1003]).unwrap(), Stop::Breakpoint);
    assert_eq!(machine.regs().rax, 6);
}

#[test]
fn finishing_a_read_is_the_step_of_its_instruction() {
    // in al, 0x10; inc ax
    let mut machine = Machine::new(&[0xe4, 0x10, 0x40]);
    assert!(matches!(machine.vcpu.step().unwrap(), Stop::Exit(Exit::Access(_))));
    assert!(machine.vcpu.step().is_err(), "unanswered");
    machine.vcpu.answer(&[7]).unwrap();
    assert_eq!(machine.vcpu.step().unwrap(), Stop::Stepped);
    assert_eq!(machine.regs().rax, 7);
    machine.vcpu.step().unwrap();
    assert_eq!(machine.regs().rax, 8);
}

#[test]
fn a_split_lock_is_one_step_and_kept_once() {
    // lock add [0x2006], eax; hlt
    let mut machine = Machine::new(&[0xf0, 0x66, 0x01, 0x06, 0x06, 0x20, 0xf4]);
    machine.vcpu.keep_history(4);
    machine.set(|regs| regs.rax = 0x1122_3344);
    assert_eq!(machine.vcpu.step().unwrap(), Stop::Stepped);
    assert_eq!((machine.vcpu.address(), machine.read(0x2006)), (0x1006, 0x1122_3344_u32.to_le_bytes()));
    assert_eq!(machine.vcpu.history().len(), 1);
}

#[test]
fn the_last_instructions_are_kept_with_address_bytes_and_assembly() {
    let mut machine = Machine::new(&[0x40, 0xb9, 0x34, 0x12, 0xf4]);
    machine.vcpu.keep_history(2);
    machine.run();
    let lines: Vec<_> = machine.vcpu.history().iter().map(ToString::to_string).collect();
    assert_eq!(lines, ["00001001  b9 34 12                 mov cx,1234h", "00001004  f4                       hlt"]);
}

#[test]
fn vcpus_in_lockstep_run_the_same_way_each_time() {
    let run = || {
        let vm = Mock::guest_code().create_soft_vm().expect("create_soft_vm");
        let (region, ram) = memory::region(0, RAM_LEN);
        // Each counts in shared memory, without a lock, and reads the time stamp: inc byte [0x2000]; mov al, [0x2000];
        // rdtsc; out 0x10, eax; jmp back.
        let code = [0xfe, 0x06, 0x00, 0x20, 0x0f, 0x31, 0x02, 0x06, 0x00, 0x20, 0xe6, 0x10, 0xeb, 0xf2];
        memory::write_at(&ram, ENTRY, &code);
        vm.map_memory(region).unwrap();
        let vcpus = [0, 1, 2].map(|id| {
            let mut vcpu = vm.create_soft_vcpu(VcpuId(id)).unwrap();
            test_utils::guest::boot(&mut vcpu);
            vcpu
        });
        let mut lockstep = Lockstep::new(vcpus.into(), NonZeroU32::new(7).unwrap());
        (0..300)
            .map(|_| {
                let (id, stop) = lockstep.run().unwrap();
                (id, stop, lockstep.vcpus()[id.index()].regs().unwrap())
            })
            .collect::<Vec<_>>()
    };
    let first = run();
    assert_eq!(first, run());
    for id in [0, 1, 2] {
        let exits = first.iter().filter(|(vcpu, ..)| *vcpu == VcpuId(id)).count();
        assert!((90..110).contains(&exits), "{exits} exits of vCPU {id}");
    }
}

#[test]
fn vcpus_that_halt_leave_their_turns_to_the_others() {
    let vm = Mock::guest_code().create_soft_vm().expect("create_soft_vm");
    let (region, ram) = memory::region(0, RAM_LEN);
    memory::write_at(&ram, ENTRY, &COUNT);
    memory::write_at(&ram, 0x2000, &[0xf4]);
    vm.map_memory(region).unwrap();
    let vcpus = [0, 1].map(|id| {
        let mut vcpu = vm.create_soft_vcpu(VcpuId(id)).unwrap();
        test_utils::guest::boot(&mut vcpu);
        let rip = if id == 0 { 0x2000 } else { ENTRY };
        let regs = kvm_regs { rip, rflags: 2, ..Default::default() };
        vcpu.set_regs(&regs).unwrap();
        vcpu
    });
    let mut lockstep = Lockstep::new(vcpus.into(), NonZeroU32::MIN);
    for _ in 0..3 {
        let (id, stop) = lockstep.run().unwrap();
        assert!(id == VcpuId(1) && matches!(stop, Stop::Exit(Exit::Access(_))), "{id} {stop:?}");
    }
    // jmp to a hlt
    memory::write_at(&ram, ENTRY, &[0xf4; 5]);
    assert_eq!(lockstep.run().unwrap().1, Stop::Idle);
}
