//! Logs of written pages.

use hypervisor::{AddressSpace, Error, MemoryProblem, SlotId};

use super::*;
use crate::memory;

/// One bit a page; reading the log empties it.
pub fn a_dirty_log_has_the_pages_written_since_the_last_look(make: Make) {
    let program = Program::new().mov(1).store(0x9100, 1).store(0xa000, 4).load(0xb000, 1).output(PORT, 1);
    let Guest { vm, mut vcpu, .. } = guest!(make, program.mov(1).store(0xaffe, 4).output(PORT, 1));
    let slot = vm.map_memory(memory::region(0x8000, 0x5000).0.log_dirty(true)).expect("map_memory");
    assert_eq!(vm.dirty_log(slot).expect("dirty_log"), [0]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[0]);
    assert_eq!(vm.dirty_log(slot).expect("dirty_log"), [0b00110]);
    assert_eq!(vm.dirty_log(slot).expect("dirty_log"), [0]);
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1]);
    assert_eq!(vm.dirty_log(slot).expect("dirty_log"), [0b01100]);
}

/// 65 pages are two words.
pub fn a_dirty_log_comes_in_whole_words(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    for (start, pages, words) in [(0x10_0000, 64, 1), (0x20_0000, 65, 2)] {
        let slot = vm.map_memory(memory::region(start, pages * 0x1000).0.log_dirty(true)).expect("map_memory");
        assert_eq!(vm.dirty_log(slot).expect("dirty_log"), vec![0; words]);
    }
}

/// `ENOENT`, and no slot at all.
pub fn memory_that_is_not_logged_has_no_dirty_log(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let slot = vm.map_memory(memory::region(0x9000, 0x1000).0).expect("map_memory");
    assert_eq!(errno(vm.dirty_log(slot)), ENOENT);
    match vm.dirty_log(SlotId(4711)) {
        Err(Error::Memory { problem: MemoryProblem::NotMapped, .. }) => {}
        other => panic!("{other:?}"),
    }
}
