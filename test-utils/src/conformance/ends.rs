//! How a guest ends.

use hypervisor::Exit;

use super::*;

/// An exception without a handler, for whose handler's lack there is none either.
pub fn a_triple_fault_in_protected_mode_is_a_shutdown(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new().divide_by_zero());
    let mut sregs = vcpu.sregs().expect("sregs");
    sregs.cr0 |= 1;
    for segment in [&mut sregs.cs, &mut sregs.ds, &mut sregs.ss] {
        (segment.db, segment.g, segment.limit) = (1, 1, u32::MAX);
    }
    (sregs.cs.selector, sregs.ds.selector, sregs.ss.selector) = (8, 16, 16);
    sregs.idt.limit = 0;
    vcpu.set_sregs(&sregs).expect("set_sregs");
    assert_eq!(vcpu.run().expect("run"), Exit::Shutdown);
}
