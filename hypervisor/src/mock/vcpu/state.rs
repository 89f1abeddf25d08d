//! What a vCPU of the mock has: its registers, and what is worked out from them.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use kvm_bindings::{
    KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, kvm_cpuid_entry2, kvm_debugregs, kvm_mp_state, kvm_regs,
    kvm_sregs, kvm_vcpu_events,
};

use super::api::TOLD_EVENTS;
use crate::VcpuId;
use crate::mock::cpu::Features;
use crate::mock::cpu::fpu::FpuState;
use crate::mock::cpu::mode::Mode;
use crate::mock::cpu::regs::Regs;
use crate::mock::cpu::segments::Window;
use crate::mock::irq::irqchip::Irqchip;
use crate::mock::model::msrs::{MsrAccess, Msrs};
use crate::mock::reset;
use crate::mock::vcpu::event_inbox::EventInbox;

/// What a vCPU has.
pub(in crate::mock) struct State {
    pub(in crate::mock) regs: Regs,
    pub(in crate::mock) sregs: kvm_sregs,
    pub(in crate::mock) mp_state: kvm_mp_state,
    pub(in crate::mock) fpu: FpuState,
    pub(in crate::mock) debug_regs: kvm_debugregs,
    pub(in crate::mock) xcr0: u64,
    pub(in crate::mock) events: kvm_vcpu_events,
    pub(in crate::mock) msrs: Msrs,
    pub(in crate::mock) cpuid: Vec<kvm_cpuid_entry2>,
    /// What `cpuid` offers.
    pub(in crate::mock) features: Features,
    /// The mode that the registers make: to be [refreshed](Self::refresh_mode) whenever they may make another one.
    pub(in crate::mock) mode: Mode,
    /// What the segments let through, worked out with the mode.
    pub(in crate::mock) segments: [Window; 6],
    /// The page-directory-pointer table of PAE paging, as the last load of CR3 found it.
    pub(in crate::mock) pdptrs: [u64; 4],
    /// Registers that translate addresses were set from outside.
    pub(in crate::mock) translation_changed: bool,
    /// After the first step `cpuid` must not change.
    pub(in crate::mock) has_run: bool,
}

impl State {
    pub(in crate::mock) fn after_reset(id: VcpuId) -> Self {
        let (regs, sregs, debug_regs) = (Regs::from(&reset::regs()), reset::sregs(id), reset::debug_regs());
        let mode = Mode::of(&regs, &sregs, debug_regs.dr7);
        Self {
            regs,
            sregs,
            mp_state: reset::mp_state(id),
            fpu: FpuState::default(),
            debug_regs,
            xcr0: 1,
            events: kvm_vcpu_events { flags: TOLD_EVENTS, ..Default::default() },
            msrs: Msrs::default(),
            cpuid: Vec::new(),
            features: Features::default(),
            mode,
            segments: Window::of_all(&sregs, &mode),
            pdptrs: [0; 4],
            translation_changed: false,
            has_run: false,
        }
    }

    /// Works the mode out again.
    #[inline]
    pub(in crate::mock) fn refresh_mode(&mut self) {
        self.mode = Mode::of(&self.regs, &self.sregs, self.debug_regs.dr7);
        self.segments = Window::of_all(&self.sregs, &self.mode);
    }

    /// The value of an MSR, for the guest or from outside; `None` where there is none.
    pub(in crate::mock) fn msr(&self, index: u32, irqs: &Irqchip, inbox: &EventInbox, by_guest: bool) -> Option<u64> {
        MsrAccess { cpuid: &self.cpuid, irqs, inbox, by_guest }.get(index, &self.msrs, &self.sregs)
    }

    /// Sets an MSR; `None` where there is none, or it does not take the value.
    pub(in crate::mock) fn set_msr(
        &mut self,
        index: u32,
        value: u64,
        irqs: &Irqchip,
        inbox: &EventInbox,
        by_guest: bool,
    ) -> Option<()> {
        let access = MsrAccess { cpuid: &self.cpuid, irqs, inbox, by_guest };
        access.set(index, value, &mut self.msrs, &mut self.sregs)
    }

    /// Whether anything waits to be delivered.
    pub(in crate::mock) fn events_are_under_way(&self) -> bool {
        let events = &self.events;
        events.exception.injected | events.interrupt.injected | events.nmi.injected | events.nmi.pending != 0
    }

    /// NMIs that wait, where this many more arrive: one behind another that is being handled, else two.
    pub(in crate::mock) fn pending_nmis(&self, more: u8) -> u8 {
        let nmi = &self.events.nmi;
        let most = if nmi.masked != 0 || nmi.injected != 0 { 1 } else { 2 };
        if more == 0 { nmi.pending } else { nmi.pending.saturating_add(more).min(most) }
    }

    /// INIT: as after reset, but for what it leaves alone (Intel SDM volume 3, table 11-1).
    pub(in crate::mock) fn init(&mut self, id: VcpuId) {
        const CACHES_OFF: u64 = 0x6000_0000;
        let reset = reset::sregs(id);
        let caches = self.sregs.cr0 & CACHES_OFF;
        self.sregs = kvm_sregs { apic_base: self.sregs.apic_base, cr0: reset.cr0 & !CACHES_OFF | caches, ..reset };
        let signature =
            self.cpuid.iter().find(|leaf| leaf.function == 1).map_or(reset::SIGNATURE, |leaf| leaf.eax.into());
        let regs = kvm_regs { rdx: signature, ..reset::regs() };
        self.regs = Regs::from(&regs);
        self.debug_regs = reset::debug_regs();
        self.events = kvm_vcpu_events { flags: TOLD_EVENTS, ..Default::default() };
        let is_first = id.0 == 0;
        self.mp_state.mp_state = if is_first { KVM_MP_STATE_RUNNABLE } else { KVM_MP_STATE_INIT_RECEIVED };
        self.pdptrs = [0; 4];
        self.refresh_mode();
    }

    /// A start-up interrupt, which only a vCPU that waits for it takes: it begins at the page of this number.
    pub(in crate::mock) fn start(&mut self, page: u8) {
        if self.mp_state.mp_state == KVM_MP_STATE_INIT_RECEIVED {
            self.sregs.cs.selector = u16::from(page) << 8;
            self.sregs.cs.base = u64::from(page) << 12;
            self.regs.rip = 0;
            self.refresh_mode();
            self.mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
        }
    }

    /// The shadow that an instruction leaves (`KVM_X86_SHADOW_INT_*`). The same kind twice in a row leaves none, or a
    /// guest could keep interrupts away for ever.
    pub(in crate::mock) fn set_shadow(&mut self, shadow: u8) {
        let before = self.events.interrupt.shadow;
        if shadow | before != 0 {
            self.events.interrupt.shadow = if shadow == before { 0 } else { shadow };
        }
    }
}
