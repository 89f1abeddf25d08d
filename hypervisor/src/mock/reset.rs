//! State after reset: of a vCPU Intel SDM volume 3, table 11-1, as `KVM_CREATE_VCPU` leaves it; of the chips as
//! `KVM_CREATE_IRQCHIP` and `KVM_CREATE_PIT2` do.

use kvm_bindings::{
    KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, kvm_debugregs, kvm_dtable, kvm_ioapic_state,
    kvm_ioapic_state__bindgen_ty_1 as Redirection, kvm_lapic_state, kvm_mp_state, kvm_pic_state, kvm_pit_channel_state,
    kvm_pit_state2, kvm_regs, kvm_segment, kvm_sregs,
};

use crate::VcpuId;

/// RDX after reset holds the processor's signature; KVM gives family 6 without a CPUID table.
pub(super) const SIGNATURE: u64 = 0x600;
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

/// The bits of DR6 and DR7 that are always set (Intel SDM volume 3, section 19.2).
pub(super) fn debug_regs() -> kvm_debugregs {
    kvm_debugregs { dr6: 0xffff_0ff0, dr7: 0x400, ..Default::default() }
}

/// The local APIC (Intel SDM volume 3, section 12.4.7.1): all masked, but the boot processor's LINT0 takes the PICs'
/// interrupts.
pub(super) fn lapic(id: VcpuId) -> kvm_lapic_state {
    const MASKED: u32 = 1 << 16;
    const EXTINT: u32 = 7 << 8;
    let lint0 = if id.0 == 0 { EXTINT } else { MASKED };
    let registers = [
        (0x20, id.0 << 24),
        // Version 0x14, six entries in the local vector table.
        (0x30, 0x5_0014),
        (0xe0, u32::MAX),
        (0xf0, 0xff),
        (0x320, MASKED),
        (0x330, MASKED),
        (0x340, MASKED),
        (0x350, lint0),
        (0x360, MASKED),
        (0x370, MASKED),
    ];
    let mut lapic = kvm_lapic_state::default();
    for (offset, value) in registers {
        for (place, byte) in lapic.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
            *place = byte.cast_signed();
        }
    }
    lapic
}

/// The PICs: nothing but which lines may be triggered by level.
pub(super) fn pics() -> [kvm_pic_state; 2] {
    let pic = |elcr_mask| kvm_pic_state { elcr_mask, ..Default::default() };
    [pic(0xf8), pic(0xde)]
}

/// The IOAPIC at its usual place, all pins masked.
pub(super) fn ioapic() -> kvm_ioapic_state {
    const MASKED: Redirection = Redirection { bits: 1 << 16 };
    kvm_ioapic_state { base_address: 0xfec0_0000, redirtbl: [MASKED; 24], ..Default::default() }
}

/// The PIT before its first mode is set: the largest count, and the gate of the speaker's channel closed.
pub(super) fn pit() -> kvm_pit_state2 {
    let channel = |gate| kvm_pit_channel_state { count: 0x1_0000, mode: 0xff, gate, ..Default::default() };
    kvm_pit_state2 { channels: [channel(1), channel(1), channel(0)], ..Default::default() }
}
