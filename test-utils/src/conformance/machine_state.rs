//! The state of a VM's chips.

use hypervisor::{Pic, VcpuId, kvm_clock_data, kvm_pic_state};
use zerocopy::IntoBytes;

use super::*;

/// As `KVM_CREATE_IRQCHIP` leaves them.
pub fn chips_begin_in_their_state_after_reset(make: Make) {
    let Some(hypervisor) = make(&Program::new()) else { return };
    let vm = hypervisor.create_vm().expect("create_vm");
    for (which, elcr_mask) in [(Pic::Primary, 0xf8), (Pic::Secondary, 0xde)] {
        assert_eq!(vm.pic(which).expect("pic"), kvm_pic_state { elcr_mask, ..Default::default() });
    }
    let ioapic = vm.ioapic().expect("ioapic");
    assert_eq!((ioapic.base_address, ioapic.ioregsel, ioapic.id, ioapic.irr), (0xfec0_0000, 0, 0, 0));
    assert_eq!(ioapic.redirtbl.as_bytes(), [0x1_0000_u64; 24].as_bytes(), "all masked");
    let pit = vm.pit().expect("pit");
    assert_eq!(
        pit.channels.map(|channel| (channel.count, channel.mode, channel.gate)),
        [(0x1_0000, 0xff, 1), (0x1_0000, 0xff, 1), (0x1_0000, 0xff, 0)]
    );
    assert_eq!(pit.flags, 0);
}

/// Each by itself.
pub fn a_pic_that_was_set_is_read_back(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    for (which, irq_base) in [(Pic::Primary, 0x20), (Pic::Secondary, 0x28)] {
        let state = kvm_pic_state { irq_base, imr: 0xfe, elcr: 8, ..vm.pic(which).expect("pic") };
        vm.set_pic(which, &state).expect("set_pic");
        assert_eq!(vm.pic(which).expect("pic"), state);
    }
    assert_eq!(vm.pic(Pic::Primary).expect("pic").irq_base, 0x20);
}

/// Byte by byte.
pub fn an_ioapic_that_was_set_is_read_back(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let mut state = vm.ioapic().expect("ioapic");
    (state.id, state.ioregsel) = (3, 0x12);
    state.redirtbl[4].bits = 0x0100_0000_0001_8031;
    vm.set_ioapic(&state).expect("set_ioapic");
    assert_eq!(vm.ioapic().expect("ioapic").as_bytes(), state.as_bytes());
}

/// The times in it are the backend's own.
pub fn a_pit_that_was_set_is_read_back(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let mut state = vm.pit().expect("pit");
    for (channel, count) in state.channels.iter_mut().zip([0x1234, 0, 0x4321]) {
        (channel.count, channel.mode, channel.rw_mode) = (count, 3, 3);
    }
    vm.set_pit(&state).expect("set_pit");
    let got = vm.pit().expect("pit");
    let shown = |channel: kvm_bindings::kvm_pit_channel_state| (channel.count, channel.mode, channel.rw_mode);
    assert_eq!(got.channels.map(shown), [(0x1234, 3, 3), (0x1_0000, 3, 3), (0x4321, 3, 3)]);
}

/// It may run on between setting and looking.
pub fn a_clock_that_was_set_is_read_back(make: Make) {
    let Guest { vm, .. } = guest!(make, Program::new());
    let (set, minute) = (1_000_000_000_000, 60_000_000_000);
    vm.set_clock(&kvm_clock_data { clock: set, ..Default::default() }).expect("set_clock");
    let clock = vm.clock().expect("clock");
    assert!((set..set + minute).contains(&clock.clock), "{}", clock.clock);
    vm.set_clock(&clock).expect("what was got can be set");
    assert_eq!(errno(vm.set_clock(&kvm_clock_data { flags: 1 << 31, ..clock })), EINVAL);
}

/// `EINVAL` afterwards.
pub fn the_identity_map_address_is_set_before_the_first_vcpu(make: Make) {
    let Some(hypervisor) = make(&Program::new()) else { return };
    let vm = hypervisor.create_vm().expect("create_vm");
    vm.set_identity_map_address(0xfeff_c000).expect("set_identity_map_address");
    let _vcpu = vm.create_vcpu(VcpuId(0)).expect("create_vcpu");
    assert_eq!(errno(vm.set_identity_map_address(0xfeff_c000)), EINVAL);
}
