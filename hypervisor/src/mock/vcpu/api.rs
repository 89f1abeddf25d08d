//! A vCPU's state as callers get and set it: kept, and refused where KVM refuses it.
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
    KVM_MAX_CPUID_ENTRIES, KVM_MAX_MSR_ENTRIES, KVM_MAX_XCRS, KVM_MP_STATE_AP_RESET_HOLD, KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_SIPI_RECEIVED, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW,
    KVM_VCPUEVENT_VALID_SIPI_VECTOR, KVM_VCPUEVENT_VALID_SMM, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu,
    kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcr, kvm_xcrs,
};

use super::{SoftVcpu, valid};
use crate::mock::cpu::Features;
use crate::mock::cpu::regs::Regs;
use crate::mock::model::cpuid;
use crate::mock::refused;
use crate::{Capability, Result, VcpuState};

/// The parts of `kvm_vcpu_events` that a look at them always has.
pub(super) const TOLD_EVENTS: u32 =
    KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW | KVM_VCPUEVENT_VALID_SMM;
/// The parts that may be set; the others need capabilities that nobody enables.
const TAKEN_EVENTS: u32 = TOLD_EVENTS | KVM_VCPUEVENT_VALID_SIPI_VECTOR;

/// The highest exception vector, and the one that is no exception.
const MAX_EXCEPTION: u8 = 31;
const NMI_VECTOR: u8 = 2;

fn invalid(what: &'static str, is_valid: bool) -> Result<()> {
    if is_valid { Ok(()) } else { Err(refused(what, libc::EINVAL)) }
}

fn too_many(what: &'static str, given: usize, most: usize) -> Result<()> {
    if given <= most { Ok(()) } else { Err(refused(what, libc::E2BIG)) }
}

impl VcpuState for SoftVcpu {
    fn regs(&self) -> Result<kvm_regs> {
        Ok(kvm_regs::from(&self.state.regs))
    }

    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        self.pending.check_set()?;
        self.state.regs = Regs::from(regs);
        self.state.refresh_mode();
        Ok(())
    }

    fn sregs(&self) -> Result<kvm_sregs> {
        let mut sregs = kvm_sregs { cr8: self.intake.task_priority().into(), ..self.state.sregs };
        let interrupt = &self.state.events.interrupt;
        sregs.interrupt_bitmap = [0; 4];
        if interrupt.injected != 0
            && let Some(word) = sregs.interrupt_bitmap.get_mut(usize::from(interrupt.nr / 64))
        {
            *word |= 1 << (interrupt.nr % 64);
        }
        Ok(sregs)
    }

    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()> {
        self.pending.check_set()?;
        invalid("KVM_SET_SREGS", valid::sregs(sregs, self.state.features))?;
        if let Some(vector) = valid::first_interrupt(sregs) {
            let interrupt = &mut self.state.events.interrupt;
            (interrupt.injected, interrupt.nr, interrupt.soft) = (1, vector, 0);
        }
        self.state.sregs = *sregs;
        self.state.refresh_mode();
        self.state.translation_changed = true;
        self.intake.set_base(sregs.apic_base);
        self.intake.set_task_priority(sregs.cr8 as u8);
        Ok(())
    }

    fn mp_state(&self) -> Result<kvm_mp_state> {
        Ok(self.state.mp_state)
    }

    fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<()> {
        let known = state.mp_state <= KVM_MP_STATE_SIPI_RECEIVED || state.mp_state == KVM_MP_STATE_AP_RESET_HOLD;
        invalid("KVM_SET_MP_STATE", known)?;
        self.state.mp_state = *state;
        self.intake.leave_idle();
        Ok(())
    }

    fn fpu(&self) -> Result<kvm_fpu> {
        Ok(self.state.fpu.to_kvm())
    }

    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()> {
        self.state.fpu.set_kvm(fpu);
        Ok(())
    }

    fn debug_regs(&self) -> Result<kvm_debugregs> {
        Ok(self.state.debug_regs)
    }

    fn set_debug_regs(&mut self, regs: &kvm_debugregs) -> Result<()> {
        invalid("KVM_SET_DEBUGREGS", regs.flags == 0 && regs.dr6 >> 32 == 0 && regs.dr7 >> 32 == 0)?;
        self.state.debug_regs = *regs;
        self.state.refresh_mode();
        Ok(())
    }

    fn lapic(&self) -> Result<kvm_lapic_state> {
        Ok(self.platform.irqs.lapic(&self.intake))
    }

    fn set_lapic(&mut self, new: &kvm_lapic_state) -> Result<()> {
        self.platform.irqs.set_lapic(&self.intake, new);
        Ok(())
    }

    fn xcrs(&self) -> Result<kvm_xcrs> {
        let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        if let Some(first) = xcrs.xcrs.first_mut() {
            *first = kvm_xcr { xcr: 0, value: self.state.xcr0, ..Default::default() };
        }
        Ok(xcrs)
    }

    fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result<()> {
        const CALL: &str = "KVM_SET_XCRS";
        invalid(CALL, xcrs.nr_xcrs <= KVM_MAX_XCRS && xcrs.flags == 0)?;
        // The kernel takes the first XCR0 and looks at no other.
        if let Some(xcr0) = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize).find(|xcr| xcr.xcr == 0) {
            let allowed = cpuid::allowed_xcr0(&self.state.cpuid);
            invalid(CALL, xcr0.value & 1 == 1 && xcr0.value & !allowed == 0)?;
            self.state.xcr0 = xcr0.value;
        }
        Ok(())
    }

    fn vcpu_events(&self) -> Result<kvm_vcpu_events> {
        let mut events = self.state.events;
        events.nmi.pending = self.state.pending_nmis(self.intake.nmis());
        Ok(events)
    }

    fn set_vcpu_events(&mut self, events: &kvm_vcpu_events) -> Result<()> {
        const CALL: &str = "KVM_SET_VCPU_EVENTS";
        let exception = events.exception;
        let is_exception = exception.nr <= MAX_EXCEPTION && exception.nr != NMI_VECTOR;
        let has = |flag| events.flags & flag != 0;
        invalid(CALL, events.flags & !TAKEN_EVENTS == 0)?;
        invalid(CALL, is_exception || exception.injected == 0)?;
        let in_smm = has(KVM_VCPUEVENT_VALID_SMM) && (events.smi.smm != 0 || events.smi.pending != 0);
        invalid(CALL, !in_smm || self.state.mp_state.mp_state != KVM_MP_STATE_INIT_RECEIVED)?;

        // What a flag stands for is left as it is without the flag.
        let old = self.state.events;
        let mut new = kvm_vcpu_events { flags: TOLD_EVENTS, sipi_vector: 0, ..*events };
        // Without payloads, which are a capability of their own, there is no exception that waits.
        new.exception.pending = 0;
        if !has(KVM_VCPUEVENT_VALID_NMI_PENDING) {
            new.nmi.pending = old.nmi.pending;
        }
        if !has(KVM_VCPUEVENT_VALID_SHADOW) {
            new.interrupt.shadow = old.interrupt.shadow;
        }
        if !has(KVM_VCPUEVENT_VALID_SMM) {
            new.smi = old.smi;
        }
        self.state.events = new;
        Ok(())
    }

    fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>> {
        too_many("KVM_GET_MSRS", indices.len(), KVM_MAX_MSR_ENTRIES)?;
        let get = |&index: &u32| self.state.msr(index, &self.platform.irqs, &self.intake, false);
        Ok(indices.iter().map_while(get).collect())
    }

    fn set_msrs(&mut self, entries: &[kvm_msr_entry]) -> Result<usize> {
        too_many("KVM_SET_MSRS", entries.len(), KVM_MAX_MSR_ENTRIES)?;
        let Self { state, platform, intake, .. } = self;
        let set = |entry: &kvm_msr_entry| state.set_msr(entry.index, entry.data, &platform.irqs, intake, false);
        let count = entries.iter().map_while(set).count();
        self.state.refresh_mode();
        self.state.translation_changed = true;
        Ok(count)
    }

    fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()> {
        const CALL: &str = "KVM_SET_CPUID2";
        too_many(CALL, entries.len(), KVM_MAX_CPUID_ENTRIES)?;
        invalid(CALL, cpuid::is_valid(entries) && (!self.state.has_run || entries == self.state.cpuid))?;
        self.state.cpuid = entries.to_vec();
        self.state.features = Features::of(entries);
        self.intake.set_has_deadline_mode(cpuid::TSC_DEADLINE.is_offered(entries));
        Ok(())
    }

    fn hyperv_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        if self.is_scripted() { Ok(cpuid::hyperv()) } else { Err(refused("KVM_GET_SUPPORTED_HV_CPUID", libc::EINVAL)) }
    }

    fn enable_capability(&mut self, _: Capability) -> Result<()> {
        // Scripts make Hyper-V's exits without being asked whether they may. Guest code has no Hyper-V.
        invalid("KVM_ENABLE_CAP", self.is_scripted())
    }
}
