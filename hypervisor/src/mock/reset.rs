//! A vCPU's state after reset: Intel SDM volume 3, table 11-1, as `KVM_CREATE_VCPU` leaves it.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, kvm_dtable, kvm_mp_state, kvm_regs, kvm_segment, kvm_sregs,
};

use crate::VcpuId;

/// RDX after reset holds the processor's signature; KVM gives family 6 without a CPUID table.
const SIGNATURE: u64 = 0x600;
/// `IA32_APIC_BASE`: address, enabled, and (bit 8) the boot processor.
const APIC_BASE: u64 = 0xfee0_0800;
const APIC_BASE_BOOT_PROCESSOR: u64 = 1 << 8;

pub(super) fn regs() -> kvm_regs {
    kvm_regs { rdx: SIGNATURE, rip: 0xfff0, rflags: 2, ..Default::default() }
}

pub(super) fn sregs(id: VcpuId) -> kvm_sregs {
    let data = segment(0, 0, 3);
    let table = kvm_dtable { limit: 0xffff, ..Default::default() };
    let boot = if id.0 == 0 { APIC_BASE_BOOT_PROCESSOR } else { 0 };
    kvm_sregs {
        cs: segment(0xf000, 0xffff_0000, 11),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment { s: 0, ..segment(0, 0, 11) },
        ldt: kvm_segment { s: 0, ..segment(0, 0, 2) },
        gdt: table,
        idt: table,
        // Caches off (CD, NW), and the extension type bit that is always set.
        cr0: 0x6000_0010,
        apic_base: APIC_BASE | boot,
        ..Default::default()
    }
}

fn segment(selector: u16, base: u64, type_: u8) -> kvm_segment {
    kvm_segment { base, limit: 0xffff, selector, type_, present: 1, s: 1, ..Default::default() }
}

pub(super) fn mp_state(id: VcpuId) -> kvm_mp_state {
    let mp_state = if id.0 == 0 { KVM_MP_STATE_RUNNABLE } else { KVM_MP_STATE_UNINITIALIZED };
    kvm_mp_state { mp_state }
}
