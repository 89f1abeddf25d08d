//! The registers and other state of a vCPU that is stopped.

use kvm_bindings::{
    KVM_CAP_HYPERV_SYNIC, KVM_CAP_HYPERV_SYNIC2, kvm_cpuid_entry2, kvm_debugregs, kvm_fpu, kvm_lapic_state,
    kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use plugin_proto::messages::vcpu_request::{
    EnableCapability, GetMsrs, GetState, MsrEntry, SetCpuid, SetMsrs, SetState, StateSet,
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::fpu::Fpu;
use crate::registers::{Known, Registers};
use crate::vcpu::{Vcpu, ask};
use crate::{Error, cpuid};

/// The state of a vCPU that is stopped. It is reached through the event that the vCPU is stopped for.
///
/// General, special and debug registers cost the fewest requests. Those that came with the event, because of a
/// [hint](crate::CallHint) or because they were asked for at the same access before, are returned without asking the VMM. Those that are set stay in this process and travel with the
/// resume; only a `get` after the `set` sends them first, so that it returns what the vCPU has made of them. Everything else is a
/// request to the VMM, answered at once.
#[derive(Debug)]
pub struct State<'v> {
    pub(crate) vcpu: &'v mut Vcpu,
}

/// An ability of a vCPU that the kernel has switched off at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Capability {
    /// `KVM_CAP_HYPERV_SYNIC`: the synthetic interrupt controller.
    HypervSynic,
    /// `KVM_CAP_HYPERV_SYNIC2`: the same, whose pages the kernel does not clear when they are enabled.
    HypervSynic2,
}

impl State<'_> {
    /// The general registers.
    ///
    /// # Errors
    /// [`Error::Refused`], also of registers that were set and could not be applied; those are forgotten. Or the channel's
    /// failure.
    pub fn regs(&mut self) -> Result<kvm_regs, Error> {
        self.look(StateSet::REGS, |registers| &mut registers.regs)
    }

    /// Sets the general registers when the event is resumed.
    pub fn set_regs(&mut self, regs: &kvm_regs) {
        self.vcpu.stop.registers.regs.set(*regs);
    }

    /// The special registers: segments, control registers and the like.
    ///
    /// # Errors
    /// As for [`regs`](Self::regs).
    pub fn sregs(&mut self) -> Result<kvm_sregs, Error> {
        self.look(StateSet::SREGS, |registers| &mut registers.sregs)
    }

    /// Sets the special registers when the event is resumed.
    pub fn set_sregs(&mut self, sregs: &kvm_sregs) {
        self.vcpu.stop.registers.sregs.set(*sregs);
    }

    /// The debug registers.
    ///
    /// # Errors
    /// As for [`regs`](Self::regs).
    pub fn debugregs(&mut self) -> Result<kvm_debugregs, Error> {
        self.look(StateSet::DEBUGREGS, |registers| &mut registers.debugregs)
    }

    /// Sets the debug registers when the event is resumed.
    pub fn set_debugregs(&mut self, debugregs: &kvm_debugregs) {
        self.vcpu.stop.registers.debugregs.set(*debugregs);
    }

    /// The registers of x87 and SSE.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn fpu(&mut self) -> Result<kvm_fpu, Error> {
        self.get::<Fpu>(StateSet::FPU).map(kvm_fpu::from)
    }

    /// Sets, at once, the registers of x87 and SSE.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<(), Error> {
        self.set(StateSet::FPU, &Fpu::from(fpu))
    }

    /// The registers of the local APIC.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn lapic(&mut self) -> Result<kvm_lapic_state, Error> {
        self.get(StateSet::LAPIC)
    }

    /// Sets, at once, the registers of the local APIC.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<(), Error> {
        self.set(StateSet::LAPIC, lapic)
    }

    /// Whether the vCPU runs, halts or waits to be started: `KVM_MP_STATE_RUNNABLE` (0) and so on.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn mp_state(&mut self) -> Result<kvm_mp_state, Error> {
        self.get(StateSet::MP)
    }

    /// Sets, at once, whether the vCPU runs, halts or waits to be started.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EINVAL` when the kernel knows no such state; or the channel's failure.
    pub fn set_mp_state(&mut self, mp_state: &kvm_mp_state) -> Result<(), Error> {
        self.set(StateSet::MP, mp_state)
    }

    /// The extended control registers.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn xcrs(&mut self) -> Result<kvm_xcrs, Error> {
        self.get(StateSet::XCREGS)
    }

    /// Sets, at once, the extended control registers.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result<(), Error> {
        self.set(StateSet::XCREGS, xcrs)
    }

    /// Exceptions and interrupts that are under way or waiting.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn vcpu_events(&mut self) -> Result<kvm_vcpu_events, Error> {
        self.get(StateSet::EVENTS)
    }

    /// Sets, at once, the exceptions and interrupts that are under way or waiting.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn set_vcpu_events(&mut self, events: &kvm_vcpu_events) -> Result<(), Error> {
        self.set(StateSet::EVENTS, events)
    }

    /// The values of MSRs, in order, up to the first that the kernel does not know: so there may be fewer than `indices`.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn msrs(&mut self, indices: &[u32]) -> Result<Vec<u64>, Error> {
        let request = GetMsrs { entry_indices: indices.to_vec(), ..Default::default() };
        let values = ask!(self.vcpu, "get_msrs", GetMsrs(request))?.entry_data;
        if values.len() > indices.len() {
            return Err(Error::unexpected(format!("{} values of {} MSRs", values.len(), indices.len())));
        }
        Ok(values)
    }

    /// Sets MSRs, at once and in order, up to the first that the kernel does not take. How many it took is not told.
    ///
    /// # Errors
    /// [`Error::Refused`], or the channel's failure.
    pub fn set_msrs(&mut self, entries: &[kvm_msr_entry]) -> Result<(), Error> {
        let entry = |entry: &kvm_msr_entry| MsrEntry { index: entry.index, data: entry.data, ..Default::default() };
        let request = SetMsrs { entries: entries.iter().map(entry).collect(), ..Default::default() };
        ask!(self.vcpu, "set_msrs", SetMsrs(request)).map(drop)
    }

    /// Sets what the guest's `cpuid` returns, at once. Of the entries' flags only `KVM_CPUID_FLAG_SIGNIFCANT_INDEX` is
    /// carried.
    ///
    /// # Errors
    /// [`Error::Refused`], as the kernel says: `E2BIG` for too many entries.
    pub fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<(), Error> {
        let request = SetCpuid { entries: entries.iter().map(cpuid::to_wire).collect(), ..Default::default() };
        ask!(self.vcpu, "set_cpuid", SetCpuid(request)).map(drop)
    }

    /// The CPUID entries of the Hyper-V features that the kernel has for this vCPU.
    ///
    /// # Errors
    /// [`Error::Refused`], as the kernel says.
    pub fn hyperv_cpuid(&mut self) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        let answer = ask!(self.vcpu, "get_hyperv_cpuid", GetHypervCpuid(Default::default()))?;
        Ok(answer.entries.iter().map(cpuid::from_wire).collect())
    }

    /// Switches an ability on.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EINVAL` where the kernel does not have it.
    pub fn enable_capability(&mut self, capability: Capability) -> Result<(), Error> {
        let request = EnableCapability { capability: capability.number(), ..Default::default() };
        ask!(self.vcpu, "enable_capability", EnableCapability(request)).map(drop)
    }

    /// Registers that may be known here or wait to be set.
    fn look<T>(&mut self, set: StateSet, known: fn(&mut Registers) -> &mut Known<T>) -> Result<T, Error>
    where
        T: FromBytes + IntoBytes + Immutable + Copy,
    {
        let known = known(&mut self.vcpu.stop.registers);
        if let Some(&registers) = known.attached() {
            self.vcpu.stop.registers.note(set);
            return Ok(registers);
        }
        if let Some(&registers) = known.waiting() {
            known.forget();
            self.set(set, &registers)?;
        }
        self.get(set)
    }

    fn get<T: FromBytes>(&mut self, set: StateSet) -> Result<T, Error> {
        let request = GetState { set: set.into(), ..Default::default() };
        let name = named!("get_state", set);
        ask!(self.vcpu, name, GetState(request)).and_then(|answer| parse(&answer.state))
    }

    fn set<T: IntoBytes + Immutable>(&mut self, set: StateSet, state: &T) -> Result<(), Error> {
        let request = SetState { set: set.into(), state: state.as_bytes().to_vec(), ..Default::default() };
        let name = named!("set_state", set);
        ask!(self.vcpu, name, SetState(request)).map(drop)
    }
}

/// The request's name with that of the state.
macro_rules! named {
    ($verb:literal, $set:expr) => {
        $crate::hints::state_request!(
            $verb,
            $set,
            [
                StateSet::REGS => "regs",
                StateSet::SREGS => "sregs",
                StateSet::FPU => "fpu",
                StateSet::DEBUGREGS => "debugregs",
                StateSet::LAPIC => "lapic",
                StateSet::MP => "mp_state",
                StateSet::XCREGS => "xcrs",
                StateSet::EVENTS => "vcpu_events",
            ]
        )
    };
}
use named;

impl Capability {
    fn number(self) -> u32 {
        match self {
            Self::HypervSynic => KVM_CAP_HYPERV_SYNIC,
            Self::HypervSynic2 => KVM_CAP_HYPERV_SYNIC2,
        }
    }
}

/// From the kernel's number.
impl TryFrom<u32> for Capability {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self, Error> {
        match number {
            KVM_CAP_HYPERV_SYNIC => Ok(Self::HypervSynic),
            KVM_CAP_HYPERV_SYNIC2 => Ok(Self::HypervSynic2),
            _ => Err(Error::UnknownNumber { what: "capability that a plugin may enable", number }),
        }
    }
}

/// A kernel struct from its bytes.
pub(crate) fn parse<T: FromBytes>(bytes: &[u8]) -> Result<T, Error> {
    T::read_from_bytes(bytes)
        .map_err(|_| Error::unexpected(format!("{} bytes of state where {} are due", bytes.len(), size_of::<T>())))
}
