//! The rest of a vCPU's state.

use hypervisor::{kvm_debugregs, kvm_mp_state, kvm_msr_entry, kvm_vcpu_events};
use kvm_bindings::kvm_xcr;

use super::*;

const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const PAT: u32 = 0x277;
/// Nobody's MSR.
const UNKNOWN: u32 = 0x1234_5678;

/// x87 and SSE.
pub fn the_fpu_begins_after_reset_and_is_read_back(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new());
    let mut fpu = vcpu.fpu().expect("fpu");
    assert_eq!((fpu.fcw, fpu.fsw, fpu.ftwx), (0x37f, 0, 0));
    (fpu.fcw, fpu.mxcsr) = (0x27f, 0x1fa0);
    fpu.xmm[3] = *b"sixteen bytes :)";
    fpu.fpr[1] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0, 0, 0, 0];
    vcpu.set_fpu(&fpu).expect("set_fpu");
    assert_eq!(vcpu.fpu().expect("fpu"), hypervisor::kvm_fpu { mxcsr: 0, ..fpu }, "MXCSR is not taken");
}

/// Upper halves and flags must be 0.
pub fn debug_registers_are_checked_and_read_back(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new());
    let regs = vcpu.debug_regs().expect("debug_regs");
    assert_eq!((regs.db, regs.dr6, regs.dr7), ([0; 4], 0xffff_0ff0, 0x400));
    for bad in [
        kvm_debugregs { dr6: 1 << 32, ..regs },
        kvm_debugregs { dr7: 1 << 32, ..regs },
        kvm_debugregs { flags: 1, ..regs },
    ] {
        assert_eq!(errno(vcpu.set_debug_regs(&bad)), EINVAL, "{bad:?}");
    }
    let good = kvm_debugregs { db: [1, 2, 3, 4], dr7: 0x402, ..regs };
    vcpu.set_debug_regs(&good).expect("set_debug_regs");
    assert_eq!(vcpu.debug_regs().expect("debug_regs"), good);
}

/// 1024 bytes, a register each 16.
pub fn the_local_apic_begins_after_reset_and_is_read_back(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new());
    let mut lapic = vcpu.lapic().expect("lapic");
    let register = |regs: &[i8], offset: usize| {
        u32::from_le_bytes(std::array::from_fn(|byte| regs[offset + byte].cast_unsigned()))
    };
    for (offset, value) in [(0x20, 0), (0xe0, u32::MAX), (0xf0, 0xff), (0x320, 0x1_0000), (0x350, 0x700)] {
        assert_eq!(register(&lapic.regs, offset), value, "{offset:#x}");
    }
    // The task priority, and a vector for LINT1.
    (lapic.regs[0x80], lapic.regs[0x360]) = (0x20, 0x33);
    vcpu.set_lapic(&lapic).expect("set_lapic");
    // The processor priority follows from the task's.
    lapic.regs[0xa0] = 0x20;
    assert_eq!(vcpu.lapic().expect("lapic").regs, lapic.regs);
}

/// XCR0, as far as the CPUID allows.
pub fn extended_control_registers_are_checked_and_read_back(make: Make) {
    let Some(hypervisor) = make(&Program::new()) else { return };
    let cpuid = hypervisor.supported_cpuid().expect("supported_cpuid");
    let mut vcpu = Guest::new(&*hypervisor, &Program::new()).vcpu;
    let xcrs = vcpu.xcrs().expect("xcrs");
    assert_eq!((xcrs.nr_xcrs, xcrs.flags, xcrs.xcrs[0].xcr, xcrs.xcrs[0].value), (1, 0, 0, 1));
    let with = |value| {
        let mut new = xcrs;
        new.xcrs[0] = kvm_xcr { value, ..xcrs.xcrs[0] };
        new
    };
    assert_eq!(errno(vcpu.set_xcrs(&hypervisor::kvm_xcrs { nr_xcrs: 17, ..xcrs })), EINVAL);
    assert_eq!(errno(vcpu.set_xcrs(&hypervisor::kvm_xcrs { flags: 1, ..xcrs })), EINVAL);
    assert_eq!(errno(vcpu.set_xcrs(&with(0))), EINVAL, "x87 is always there");
    vcpu.set_cpuid(&cpuid).expect("set_cpuid");
    // The leaf of `xsave` says what there may be besides.
    if cpuid.iter().any(|leaf| (leaf.function, leaf.index) == (0xd, 0) && leaf.eax & 3 == 3) {
        vcpu.set_xcrs(&with(3)).expect("x87 and SSE");
        assert_eq!(vcpu.xcrs().expect("xcrs").xcrs[0].value, 3);
    } else {
        assert_eq!(errno(vcpu.set_xcrs(&with(3))), EINVAL, "there is no xsave");
    }
}

/// What is under way.
pub fn events_are_checked_and_read_back(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new());
    let events = vcpu.vcpu_events().expect("vcpu_events");
    assert_eq!((events.exception.injected, events.interrupt.injected, events.nmi.pending), (0, 0, 0));
    assert_eq!(errno(vcpu.set_vcpu_events(&kvm_vcpu_events { flags: 1 << 31, ..events })), EINVAL);
    let mut bad = events;
    (bad.exception.injected, bad.exception.nr) = (1, 32);
    assert_eq!(errno(vcpu.set_vcpu_events(&bad)), EINVAL);
    let mut good = events;
    (good.nmi.masked, good.interrupt.injected, good.interrupt.nr) = (1, 1, 0x31);
    vcpu.set_vcpu_events(&good).expect("set_vcpu_events");
    assert_eq!(vcpu.vcpu_events().expect("vcpu_events"), good);
}

/// `KVM_MP_STATE_*` of this architecture.
pub fn an_unknown_mp_state_is_refused(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new());
    for mp_state in [5, 6, 7, 8, 10, u32::MAX] {
        assert_eq!(errno(vcpu.set_mp_state(&kvm_mp_state { mp_state })), EINVAL, "{mp_state}");
    }
    for mp_state in [1, 3, 0] {
        vcpu.set_mp_state(&kvm_mp_state { mp_state }).expect("set_mp_state");
        assert_eq!(vcpu.mp_state().expect("mp_state").mp_state, mp_state);
    }
}

/// As many as come before it.
pub fn msrs_are_taken_up_to_the_first_unknown_one(make: Make) {
    let Guest { mut vcpu, .. } = guest!(make, Program::new());
    let entry = |index, data| kvm_msr_entry { index, data, ..Default::default() };
    let entries = [entry(SYSENTER_CS, 8), entry(UNKNOWN, 1), entry(SYSENTER_ESP, 0x1000)];
    assert_eq!(vcpu.set_msrs(&entries).expect("set_msrs"), 1);
    assert_eq!(vcpu.msrs(&[SYSENTER_CS, SYSENTER_ESP, UNKNOWN, SYSENTER_CS]).expect("msrs"), [8, 0]);
    assert_eq!(vcpu.msrs(&[UNKNOWN]).expect("msrs"), [0; 0]);
    assert_eq!(vcpu.msrs(&[]).expect("msrs"), [0; 0]);
    assert_eq!(vcpu.msrs(&[PAT]).expect("msrs"), [0x0007_0406_0007_0406]);
    assert_eq!(errno(vcpu.msrs(&[PAT; 257])), E2BIG);
    assert_eq!(errno(vcpu.set_msrs(&[entry(PAT, 0); 257])), E2BIG);
}

/// What the guest has been told stays true.
pub fn the_cpuid_does_not_change_after_the_first_run(make: Make) {
    let program = Program::new().mov(1).output(PORT, 1);
    let Some(hypervisor) = make(&program) else { return };
    let cpuid = hypervisor.supported_cpuid().expect("supported_cpuid");
    let mut vcpu = Guest::new(&*hypervisor, &program).vcpu;
    vcpu.set_cpuid(&cpuid).expect("set_cpuid");
    expect_write(&mut *vcpu, AddressSpace::Pio, PORT.into(), &[1]);
    assert_eq!(errno(vcpu.set_cpuid(&cpuid[..1])), EINVAL);
}
