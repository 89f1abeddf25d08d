//! vCPUs on threads of their own.

use std::os::fd::OwnedFd;
use std::thread;

use hypervisor::{Exit, Hypervisor};

use super::*;

/// How often each vCPU does what is under test.
const EACH: u32 = 20_000;

/// RAM that ends at 0x4000, in two slots; the second begins at 0x3000.
struct Ram([OwnedFd; 2]);

impl Ram {
    fn read(&self, address: u64, len: usize) -> Vec<u8> {
        let byte = |at| {
            if at < 0x3000 { memory::read_at(&self.0[0], at, 1) } else { memory::read_at(&self.0[1], at - 0x3000, 1) }
        };
        (address..address + len as u64).flat_map(byte).collect()
    }
}

/// Executes each of `bodies` on a vCPU of its own, [`EACH`] times.
fn together(bodies: &[&[u8]]) -> Ram {
    let vm = Mock::guest_code().create_vm().unwrap();
    let ram = Ram([(0, 0x3000), (0x3000, 0x1000)].map(|(start, len)| {
        let (region, file) = memory::region(start, len);
        vm.map_memory(region).unwrap();
        file
    }));
    let threads: Vec<_> = (0..)
        .zip(bodies)
        .map(|(id, body)| {
            // again: BODY; dec ecx; jnz again; out 0x10, al
            let back = (body.len() as u8 + 4).wrapping_neg();
            let entry = ENTRY + 0x100 * u64::from(id);
            memory::write_at(&ram.0[0], entry, &[body, &[0x66, 0x49, 0x75, back, 0xe6, 0x10][..]].concat());
            let mut vcpu = vm.create_vcpu(VcpuId(id)).unwrap();
            test_utils::guest::boot(&mut *vcpu);
            let regs = vcpu.regs().unwrap();
            vcpu.set_regs(&kvm_regs { rip: entry, rcx: EACH.into(), ..regs }).unwrap();
            thread::spawn(move || assert!(matches!(vcpu.run().unwrap(), Exit::Access(_))))
        })
        .collect();
    for thread in threads {
        test_utils::wait::join("a vCPU's run", thread);
    }
    ram
}

/// `lock inc dword [address]`
fn lock_inc(address: u16) -> [u8; 6] {
    let [low, high] = address.to_le_bytes();
    [0xf0, 0x66, 0xff, 0x06, low, high]
}

#[test]
fn locked_increments_of_two_vcpus_are_all_counted() {
    // Within a word of 8 bytes, over the end of one, over the end of a page, and over the end of a slot.
    for address in [0x2000, 0x2006, 0x1ffd, 0x2fff] {
        let body = lock_inc(address);
        let ram = together(&[&body[..]; 2]);
        assert_eq!(ram.read(address.into(), 4), (2 * EACH).to_le_bytes(), "{address:#x}");
    }
}

#[test]
fn a_split_lock_and_locks_of_its_words_lose_nothing() {
    // Besides the counter at 0x2006, bytes in front of it and behind it are counted up: `lock inc byte [...]`, and
    // `lock add dword [0x2008], 0x10000`, which shares two bytes with it.
    let split = lock_inc(0x2006);
    let before = [0xf0, 0xfe, 0x06, 0x05, 0x20];
    let behind = [0xf0, 0x66, 0x81, 0x06, 0x08, 0x20, 0, 0, 1, 0];
    let ram = together(&[&split, &before, &behind, &split]);
    assert_eq!(ram.read(0x2005, 1), [EACH as u8]);
    assert_eq!(ram.read(0x2006, 4), (2 * EACH).to_le_bytes());
    assert_eq!(ram.read(0x200a, 2), (EACH as u16).to_le_bytes());
}

#[test]
fn a_split_exchange_is_a_lock() {
    // again: mov eax, 1; xchg [0x200e], eax; test eax, eax; jnz again; inc word [0x2001]; mov [0x200e], eax
    let body = [
        &[0x66, 0xb8, 1, 0, 0, 0, 0x66, 0x87, 0x06, 0x0e, 0x20, 0x66, 0x85, 0xc0, 0x75, 0xf0][..],
        &[0xff, 0x06, 0x01, 0x20, 0x66, 0xa3, 0x0e, 0x20],
    ]
    .concat();
    let ram = together(&[&body, &body]);
    assert_eq!(ram.read(0x2001, 2), ((2 * EACH) as u16).to_le_bytes());
    assert_eq!(ram.read(0x200e, 4), [0; 4]);
}

#[test]
fn a_split_compare_and_exchange_of_eight_bytes_counts_all() {
    // again: mov eax, [0x1ffc]; mov edx, [0x2000]; mov ebx, eax; mov edi, edx; add ebx, 1; adc edi, 1;
    // xchg edi, ecx; lock cmpxchg8b [0x1ffc]; xchg edi, ecx; jnz again
    let body = [
        &[0x66, 0xa1, 0xfc, 0x1f, 0x66, 0x8b, 0x16, 0x00, 0x20, 0x66, 0x89, 0xc3, 0x66, 0x89, 0xd7][..],
        &[0x66, 0x83, 0xc3, 1, 0x66, 0x83, 0xd7, 1, 0x66, 0x87, 0xcf],
        &[0xf0, 0x0f, 0xc7, 0x0e, 0xfc, 0x1f, 0x66, 0x87, 0xcf, 0x75, 0xdb],
    ]
    .concat();
    let ram = together(&[&body, &body]);
    assert_eq!(ram.read(0x1ffc, 8), [(2 * EACH).to_le_bytes(); 2].concat());
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
