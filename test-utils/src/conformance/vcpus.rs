//! Making vCPUs.

use hypervisor::{AddressSpace, Exit, VcpuId};

use super::*;
use crate::guest;

/// As on a machine: only the first processor starts by itself.
pub fn the_second_vcpu_waits_until_it_is_made_runnable(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new().mov(6).output(PORT, 1));
    let mut second = vm.create_vcpu(VcpuId(1)).expect("create_vcpu");
    let mp_state = second.mp_state().expect("mp_state");
    assert_ne!(mp_state.mp_state, 0, "not runnable");
    guest::boot(&mut *second);
    second.set_mp_state(&mp_state).expect("set_mp_state");
    second.kick_handle().kick();
    assert_eq!(second.run().expect("run"), Exit::Interrupted);
    guest::boot(&mut *second);
    expect_write(&mut *second, AddressSpace::Pio, PORT.into(), &[6]);
}

/// Ids are unique.
pub fn a_vcpu_is_made_once(make: Make) {
    let Guest { vm, vcpu, .. } = guest!(make, Program::new());
    assert_eq!(vcpu.id(), VcpuId(0));
    assert!(vm.create_vcpu(VcpuId(0)).is_err());
    assert_eq!(vm.create_vcpu(VcpuId(3)).expect("create_vcpu").id(), VcpuId(3));
}
