//! Memory slots.

use std::os::fd::AsRawFd;

use hypervisor::{AddressSpace, Error, GuestAddress, GuestMemoryRegion, MemoryProblem, SlotId};
use rustix::io::Errno;

use super::*;
use crate::guest::{RAM_END, RAM_LEN, RAM_START};
use crate::memory;

/// MMIO, both ways.
pub fn memory_that_no_slot_backs_exits(make: Make) {
    let program = Program::new().mov(0x1234_5678).store(HOLE, 4).load(HOLE + 4, 2).output(PORT, 2);
    let Guest { mut vcpu, .. } = guest!(make, program);
    expect_write(&mut *vcpu, AddressSpace::Mmio, HOLE.into(), &[0x78, 0x56, 0x34, 0x12]);
    expect_read(&mut *vcpu, AddressSpace::Mmio, u64::from(HOLE) + 4, 2);
    vcpu.answer(&[0xcd, 0xab]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0xcd, 0xab]);
}

/// Memory is memory.
pub fn memory_in_a_slot_does_not_exit(make: Make) {
    let program = Program::new().mov(0x99).store(0x4000, 1).mov(0).load(0x4000, 1).output(PORT, 1);
    let Guest { mut vcpu, ram, .. } = guest!(make, program);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x99]);
    assert_eq!(memory::read_at(&ram, 0x4000 - RAM_START, 1), [0x99]);
}

/// Read-only slots read as memory and write as MMIO.
pub fn a_write_to_read_only_memory_exits_and_changes_nothing(make: Make) {
    let program = Program::new().mov(7).store(HOLE, 1).load(HOLE, 1).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, program);
    let (region, rom) = memory::region(0x9000, 0x1000);
    memory::write_at(&rom, 0x100, &[0x42]);
    vm.map_memory(region.read_only(true)).expect("map_memory");
    expect_write(&mut *vcpu, AddressSpace::Mmio, HOLE.into(), &[7]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x42]);
    assert_eq!(memory::read_at(&rom, 0x100, 1), [0x42]);
}

/// Nothing of the VMM's writes to read-only memory.
pub fn a_file_that_cannot_be_written_is_read_only_memory_alone(make: Make) {
    let Guest { vm, mut vcpu, .. } = guest!(make, Program::new().load(HOLE, 1).output(PORT, 1));
    let memfd = memory::sealed_memfd(0x1000);
    memory::write_at(&memfd, 0x100, &[0x42]);
    let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
    let region = || {
        let for_reading = std::fs::File::open(&path).expect("opening the memfd again");
        GuestMemoryRegion::new(GuestAddress(0x9000), for_reading.into(), 0, 0x1000).expect("region")
    };
    match vm.map_memory(region()) {
        Err(Error::Memory { problem: MemoryProblem::System(source), .. }) => {
            assert_eq!(source.raw_os_error(), Some(Errno::ACCESS.raw_os_error()));
        }
        other => panic!("{other:?}"),
    }
    vm.map_memory(region().read_only(true)).expect("map_memory");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x42]);
}

/// `KVM_MEM_MAX_NR_PAGES`.
pub fn memory_of_more_pages_than_31_bits_count_is_refused(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    match vm.map_memory(memory::region(0x1_0000_0000, 1 << 43).0) {
        Err(Error::Memory { problem: MemoryProblem::System(source), .. }) => {
            assert_eq!(source.raw_os_error(), Some(Errno::INVAL.raw_os_error()));
        }
        other => panic!("{other:?}"),
    }
}

/// Slots do not overlap.
pub fn overlapping_memory_is_refused_and_nothing_changes(make: Make) {
    let Guest { vm, mut vcpu, .. } = guest!(make, Program::new().mov(1).store(RAM_END as u16, 1).output(PORT, 1));
    for (start, len) in [(RAM_START, 0x1000), (0, 0x2000), (RAM_END - 0x1000, 0x2000), (0, 0x10_0000)] {
        match vm.map_memory(memory::region(start, len).0) {
            Err(Error::Memory { problem: MemoryProblem::Overlap, start: told, .. }) => assert_eq!(told, start),
            other => panic!("{start:#x}: {other:?}"),
        }
    }
    // The page behind RAM, which two of them would have covered, is still nobody's.
    expect_write(&mut *vcpu, AddressSpace::Mmio, RAM_END, &[1]);
}

/// A slot that is taken away is gone at once and can be had again.
pub fn unmapped_memory_exits_again_and_its_slot_is_free(make: Make) {
    let program = Program::new().mov(5).store(HOLE, 1).output(PORT, 1).store(HOLE, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, program);
    let slot = vm.map_memory(memory::region(0x9000, 0x1000).0).expect("map_memory");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[5]);
    vm.unmap_memory(slot).expect("unmap_memory");
    expect_write(&mut *vcpu, AddressSpace::Mmio, HOLE.into(), &[5]);
    for _ in 0..2 {
        match vm.unmap_memory(slot) {
            Err(Error::Memory { problem: MemoryProblem::NotMapped, .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(vm.map_memory(memory::region(0x9000, 0x1000).0).expect("map_memory"), slot);
    assert_ne!(vm.map_memory(memory::region(0xa000, 0x1000).0).expect("map_memory"), slot);
    assert!(vm.unmap_memory(SlotId(4711)).is_err());
}

/// The half in a slot is memory, the half outside an exit.
pub fn an_access_half_in_memory_exits_for_the_other_half(make: Make) {
    let edge = RAM_END as u16 - 2;
    let program = Program::new().mov(0x4433_2211).store(edge, 4).mov(0).load(edge, 4).output(PORT, 4);
    let Guest { mut vcpu, ram, .. } = guest!(make, program);
    expect_write(&mut *vcpu, AddressSpace::Mmio, RAM_END, &[0x33, 0x44]);
    assert_eq!(memory::read_at(&ram, RAM_LEN - 2, 2), [0x11, 0x22]);
    expect_read(&mut *vcpu, AddressSpace::Mmio, RAM_END, 2);
    vcpu.answer(&[0x55, 0x66]).expect("answer");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0x11, 0x22, 0x55, 0x66]);
}
