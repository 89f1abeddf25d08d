//! vCPUs on threads of their own.

use std::thread;

use hypervisor::{Exit, Hypervisor};

use super::*;

#[test]
fn locked_increments_of_two_vcpus_are_all_counted() {
    const EACH: u32 = 20_000;
    // again: lock inc dword [0x2000]; dec ecx; jnz again; out 0x10, al
    let code = [0xf0, 0x66, 0xff, 0x06, 0x00, 0x20, 0x66, 0x49, 0x75, 0xf6, 0xe6, 0x10];
    let vm = Mock::guest_code().create_vm().unwrap();
    let (region, ram) = memory::region(0, RAM_LEN);
    memory::write_at(&ram, ENTRY, &code);
    vm.map_memory(region).unwrap();
    let threads = [0, 1].map(|id| {
        let mut vcpu = vm.create_vcpu(VcpuId(id)).unwrap();
        test_utils::guest::boot(&mut *vcpu);
        let regs = kvm_regs { rcx: EACH.into(), ..vcpu.regs().unwrap() };
        vcpu.set_regs(&regs).unwrap();
        thread::spawn(move || assert!(matches!(vcpu.run().unwrap(), Exit::Access(_))))
    });
    for thread in threads {
        test_utils::wait::join("a vCPU's run", thread);
    }
    assert_eq!(memory::read_at(&ram, 0x2000, 4), (2 * EACH).to_le_bytes());
}

#[test]
fn memory_comes_and_goes_while_a_vcpu_runs() {
    // again: mov al, [0x9000]; jmp again
    let code = [0xa0, 0x00, 0x90, 0xeb, 0xfb];
    let vm = Mock::guest_code().create_vm().unwrap();
    let (region, ram) = memory::region(0, 0x8000);
    memory::write_at(&ram, ENTRY, &code);
    vm.map_memory(region).unwrap();
    let mut slot = vm.map_memory(memory::region(0x9000, 0x1000).0).unwrap();
    let mut vcpu = vm.create_vcpu(VcpuId(0)).unwrap();
    test_utils::guest::boot(&mut *vcpu);
    let kick = vcpu.kick_handle();
    let runner = thread::spawn(move || {
        let mut reads = 0;
        loop {
            match vcpu.run().unwrap() {
                Exit::Access(_) => {
                    reads += 1;
                    vcpu.answer(&[1]).unwrap();
                }
                Exit::Interrupted => return reads,
                other => panic!("{other:?}"),
            }
        }
    });
    for _ in 0..100 {
        vm.unmap_memory(slot).unwrap();
        slot = vm.map_memory(memory::region(0x9000, 0x1000).0).unwrap();
    }
    kick.kick();
    let _ = test_utils::wait::join("the run", runner);
}
