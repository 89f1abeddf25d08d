//! vCPUs that are started by another, and go into long mode.

use std::num::NonZeroU32;
use std::thread;

use hypervisor::mock::Lockstep;
use hypervisor::{Exit, Vcpu};

use super::*;

const VCPUS: u32 = 4;
/// Where the others begin, by the page's number in the start-up interrupt, and where their 64-bit code lies.
const TRAMPOLINE: u64 = 0x2000;
const LONG: u64 = 0x2080;
/// What `lgdt` loads, the table, and a count of those that came to 64-bit code.
const GDTR: u64 = 0x3000;
const GDT: u64 = 0x3010;
const COUNT: u64 = 0x3800;
/// Page tables that map the first 64 KiB.
const TABLES: [u64; 4] = [0xa000, 0xb000, 0xc000, 0xd000];
const PRESENT_AND_WRITABLE: u64 = 3;

/// A VM whose first vCPU starts all others.
fn machine() -> (SoftVm, OwnedFd, Vec<SoftVcpu>) {
    #[rustfmt::skip]
    let first = [
        0x66, 0x64, 0xc7, 0x06, 0x00, 0x03, 0x00, 0x45, 0x0c, 0, // mov dword fs:[0x300], INIT to all but this
        0x66, 0x64, 0xc7, 0x06, 0x00, 0x03, 0x02, 0x46, 0x0c, 0, // mov dword fs:[0x300], start at page 2
        0xe6, 0x10, 0xf4, //                                        out 0x10, al; hlt
    ];
    #[rustfmt::skip]
    let others = [
        0x31, 0xc0, 0x8e, 0xd8, //                xor ax, ax; mov ds, ax
        0x0f, 0x01, 0x16, 0x00, 0x30, //          lgdt [GDTR]
        0x66, 0xb8, 0xa0, 0x06, 0, 0, //          mov eax, PAE and others
        0x0f, 0x22, 0xe0, //                      mov cr4, eax
        0x66, 0xb8, 0x00, 0xa0, 0, 0, //          mov eax, the first table
        0x0f, 0x22, 0xd8, //                      mov cr3, eax
        0x66, 0xb9, 0x80, 0, 0, 0xc0, //          mov ecx, EFER
        0x0f, 0x32, 0x0d, 0x00, 0x01, 0x0f, 0x30, // rdmsr; or ax, LME; wrmsr
        0x66, 0xb8, 0x31, 0, 0, 0x80, //          mov eax, PG | PE
        0x0f, 0x22, 0xc0, //                      mov cr0, eax
        0x66, 0xea, 0x80, 0x20, 0, 0, 8, 0, //    jmp 8:LONG
    ];
    // lock inc qword [COUNT]; out 0x10, al; hlt
    let long = [0xf0, 0x48, 0xff, 0x04, 0x25, 0x00, 0x38, 0, 0, 0xe6, 0x10, 0xf4];
    let vm = Mock::guest_code().create_soft_vm().unwrap();
    let (region, ram) = memory::region(0, RAM_LEN);
    for (address, code) in [(ENTRY, &first[..]), (TRAMPOLINE, &others), (LONG, &long)] {
        memory::write_at(&ram, address, code);
    }
    let quad = |address, value: u64| memory::write_at(&ram, address, &value.to_le_bytes());
    quad(GDTR, GDT << 16 | 0xf);
    quad(GDT + 8, 0x00af_9b00_0000_ffff);
    for pair in TABLES.windows(2) {
        quad(pair[0], pair[1] | PRESENT_AND_WRITABLE);
    }
    for page in 0..16 {
        quad(TABLES[3] + 8 * page, page << 12 | PRESENT_AND_WRITABLE);
    }
    vm.map_memory(region).unwrap();
    let mut vcpus: Vec<_> = (0..VCPUS).map(|id| vm.create_soft_vcpu(VcpuId(id)).unwrap()).collect();
    test_utils::guest::boot(&mut vcpus[0]);
    let mut sregs = vcpus[0].sregs().unwrap();
    sregs.fs.base = 0xfee0_0000;
    vcpus[0].set_sregs(&sregs).unwrap();
    (vm, ram, vcpus)
}

fn count(ram: &OwnedFd) -> u64 {
    u64::from_le_bytes(memory::read_at(ram, COUNT, 8).try_into().unwrap())
}

#[test]
fn all_that_are_started_come_to_long_mode_in_lockstep() {
    let (_vm, ram, vcpus) = machine();
    let mut lockstep = Lockstep::new(vcpus, NonZeroU32::new(3).unwrap());
    for _ in 0..VCPUS {
        let (_, stop) = lockstep.run().unwrap();
        assert!(matches!(stop, Stop::Exit(Exit::Access(_))), "{stop:?}");
    }
    assert_eq!(count(&ram), u64::from(VCPUS) - 1);
    for vcpu in &lockstep.vcpus()[1..] {
        let sregs = vcpu.sregs().unwrap();
        assert_eq!((sregs.efer, sregs.cs.l, sregs.cs.selector), (0x500, 1, 8));
    }
}

#[test]
fn all_that_are_started_come_to_long_mode_on_threads() {
    let (_vm, ram, vcpus) = machine();
    let run = |mut vcpu: SoftVcpu| thread::spawn(move || assert!(matches!(vcpu.run().unwrap(), Exit::Access(_))));
    for thread in vcpus.into_iter().map(run).collect::<Vec<_>>() {
        test_utils::wait::join("a vCPU's run", thread);
    }
    assert_eq!(count(&ram), u64::from(VCPUS) - 1);
}
