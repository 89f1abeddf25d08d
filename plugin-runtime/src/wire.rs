//! The protocol's words in the machine's terms.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use hypervisor::{AddressSpace, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2, kvm_mp_state};
use plugin_proto::messages::{AddressSpace as WireSpace, CpuidEntry, vcpu_request};
use protobuf::EnumOrUnknown;
use vmm_core::{State, StateKind};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::Errno;
use crate::fpu_bytes;
use crate::refusal::Refusal;

pub(crate) fn space_from_wire(space: EnumOrUnknown<WireSpace>) -> Result<AddressSpace, Refusal> {
    match space.enum_value() {
        Ok(WireSpace::IOPORT) => Ok(AddressSpace::Pio),
        Ok(WireSpace::MMIO) => Ok(AddressSpace::Mmio),
        Err(number) => Err(Refusal::new(Errno::INVAL, format!("there is no address space {number}"))),
    }
}

pub(crate) fn space_to_wire(space: AddressSpace) -> WireSpace {
    match space {
        AddressSpace::Pio => WireSpace::IOPORT,
        AddressSpace::Mmio => WireSpace::MMIO,
    }
}

/// Which state of a vCPU is meant: `EINVAL` where the protocol knows none of that number.
pub(crate) fn state_kind(set: EnumOrUnknown<vcpu_request::StateSet>) -> Result<StateKind, Refusal> {
    match set.enum_value() {
        Ok(vcpu_request::StateSet::REGS) => Ok(StateKind::Regs),
        Ok(vcpu_request::StateSet::SREGS) => Ok(StateKind::Sregs),
        Ok(vcpu_request::StateSet::FPU) => Ok(StateKind::Fpu),
        Ok(vcpu_request::StateSet::DEBUGREGS) => Ok(StateKind::DebugRegs),
        Ok(vcpu_request::StateSet::LAPIC) => Ok(StateKind::Lapic),
        Ok(vcpu_request::StateSet::MP) => Ok(StateKind::MpState),
        Ok(vcpu_request::StateSet::XCREGS) => Ok(StateKind::Xcrs),
        Ok(vcpu_request::StateSet::EVENTS) => Ok(StateKind::Events),
        Err(number) => Err(Refusal::new(Errno::INVAL, format!("there is no state set {number} of a vCPU"))),
    }
}

/// A kernel structure from its bytes. `EINVAL` for a wrong size.
pub(crate) fn from_bytes<T: FromBytes>(bytes: &[u8]) -> Result<T, Refusal> {
    T::read_from_bytes(bytes).map_err(|_| wrong_size(bytes.len(), size_of::<T>()))
}

#[cold]
fn wrong_size(size: usize, due: usize) -> Refusal {
    Refusal::new(Errno::INVAL, format!("the state has {size} bytes, the kernel's structure {due}"))
}

/// A kernel structure's bytes.
pub(crate) fn to_bytes<T: IntoBytes + Immutable>(state: &T) -> Vec<u8> {
    state.as_bytes().to_vec()
}

/// The state in `bytes`, which are the kernel's structure. `EINVAL` for a wrong size.
pub(crate) fn state_from_bytes(kind: StateKind, bytes: &[u8]) -> Result<State, Refusal> {
    Ok(match kind {
        StateKind::Regs => State::Regs(Box::new(from_bytes(bytes)?)),
        StateKind::Sregs => State::Sregs(Box::new(from_bytes(bytes)?)),
        StateKind::Fpu => {
            State::Fpu(Box::new(fpu_bytes::parse(bytes).ok_or_else(|| wrong_size(bytes.len(), fpu_bytes::SIZE))?))
        }
        StateKind::DebugRegs => State::DebugRegs(Box::new(from_bytes(bytes)?)),
        StateKind::Lapic => State::Lapic(Box::new(from_bytes(bytes)?)),
        StateKind::MpState => State::MpState(from_bytes::<kvm_mp_state>(bytes)?),
        StateKind::Xcrs => State::Xcrs(Box::new(from_bytes(bytes)?)),
        StateKind::Events => State::Events(Box::new(from_bytes(bytes)?)),
    })
}

/// The kernel's structure as bytes.
pub(crate) fn state_to_bytes(state: &State) -> Vec<u8> {
    match state {
        State::Regs(regs) => to_bytes(&**regs),
        State::Sregs(sregs) => to_bytes(&**sregs),
        State::Fpu(fpu) => fpu_bytes::of(fpu),
        State::DebugRegs(debug_regs) => to_bytes(&**debug_regs),
        State::Lapic(lapic) => to_bytes(&**lapic),
        State::MpState(mp_state) => to_bytes(mp_state),
        State::Xcrs(xcrs) => to_bytes(&**xcrs),
        State::Events(events) => to_bytes(&**events),
    }
}

pub(crate) fn cpuid_to_wire(entries: &[kvm_cpuid_entry2]) -> Vec<CpuidEntry> {
    entries
        .iter()
        .map(|entry| CpuidEntry {
            function: entry.function,
            has_index: entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0,
            index: entry.index,
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
            ..Default::default()
        })
        .collect()
}

/// An entry by the numbers of its fields, from 1 on; there is no field 2.
pub(crate) fn cpuid_entry([function, _, has_index, index, eax, ebx, ecx, edx]: [u64; 8]) -> kvm_cpuid_entry2 {
    let has_index = has_index != 0;
    kvm_cpuid_entry2 {
        function: function as u32,
        // Without its flag an index means nothing.
        index: if has_index { index as u32 } else { 0 },
        flags: if has_index { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 },
        eax: eax as u32,
        ebx: ebx as u32,
        ecx: ecx as u32,
        edx: edx as u32,
        ..Default::default()
    }
}

pub(crate) fn cpuid_from_wire(entries: &[CpuidEntry]) -> Vec<kvm_cpuid_entry2> {
    let fields = |entry: &CpuidEntry| {
        let CpuidEntry { function, has_index, index, eax, ebx, ecx, edx, .. } = *entry;
        [function, 0, u32::from(has_index), index, eax, ebx, ecx, edx].map(u64::from)
    };
    entries.iter().map(fields).map(cpuid_entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_of_another_size_is_refused() {
        for (kind, size) in [
            (StateKind::Regs, 144),
            (StateKind::Sregs, 312),
            (StateKind::Fpu, 416),
            (StateKind::DebugRegs, 128),
            (StateKind::Lapic, 1024),
            (StateKind::MpState, 4),
            (StateKind::Xcrs, 392),
            (StateKind::Events, 64),
        ] {
            let bytes: Vec<u8> = (0..size).map(|n: usize| n as u8).collect();
            assert_eq!(state_to_bytes(&state_from_bytes(kind, &bytes).unwrap()), bytes);
            for wrong in [0, size - 1, size + 1] {
                let refusal = state_from_bytes(kind, &vec![0; wrong]).unwrap_err();
                let said = format!("the state has {wrong} bytes, the kernel's structure {size}");
                assert_eq!((refusal.errno, refusal.to_string()), (Errno::INVAL, said));
            }
        }
    }

    #[test]
    fn unknown_enum_values_are_einval() {
        assert_eq!(space_from_wire(EnumOrUnknown::from_i32(2)).unwrap_err().errno, Errno::INVAL);
        assert_eq!(state_kind(EnumOrUnknown::from_i32(-1)).unwrap_err().errno, Errno::INVAL);
        assert_eq!(state_kind(EnumOrUnknown::from_i32(8)).unwrap_err().errno, Errno::INVAL);
    }

    #[test]
    fn an_index_counts_with_its_flag_only() {
        let with = CpuidEntry { function: 4, has_index: true, index: 2, eax: 1, ..Default::default() };
        let without = CpuidEntry { has_index: false, ..with.clone() };
        let kernel = cpuid_from_wire(&[with.clone(), without]);
        let indices: Vec<_> = kernel.iter().map(|entry| (entry.index, entry.flags)).collect();
        assert_eq!(indices, [(2, KVM_CPUID_FLAG_SIGNIFCANT_INDEX), (0, 0)]);
        assert_eq!(cpuid_to_wire(&kernel).first(), Some(&with));
    }
}
