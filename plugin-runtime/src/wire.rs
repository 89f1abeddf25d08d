//! The protocol's words in the machine's terms.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use hypervisor::{AddressSpace, kvm_mp_state, kvm_regs, kvm_sregs};
use plugin_proto::messages::{AddressSpace as WireSpace, vcpu_request};
use protobuf::EnumOrUnknown;
use vmm_core::{State, StateKind};
use zerocopy::{FromBytes, IntoBytes};

use crate::errno::Errno;

pub(crate) fn space_from_wire(space: EnumOrUnknown<WireSpace>) -> Result<AddressSpace, Errno> {
    match space.enum_value() {
        Ok(WireSpace::IOPORT) => Ok(AddressSpace::Pio),
        Ok(WireSpace::MMIO) => Ok(AddressSpace::Mmio),
        Err(_) => Err(Errno::INVAL),
    }
}

pub(crate) fn space_to_wire(space: AddressSpace) -> WireSpace {
    match space {
        AddressSpace::Pio => WireSpace::IOPORT,
        AddressSpace::Mmio => WireSpace::MMIO,
    }
}

/// Which state of a vCPU is meant: `EINVAL` where the protocol knows none of that number, `ENOTTY` where this VMM does
/// not serve it.
pub(crate) fn state_kind(set: EnumOrUnknown<vcpu_request::StateSet>) -> Result<StateKind, Errno> {
    match set.enum_value() {
        Ok(vcpu_request::StateSet::REGS) => Ok(StateKind::Regs),
        Ok(vcpu_request::StateSet::SREGS) => Ok(StateKind::Sregs),
        Ok(vcpu_request::StateSet::MP) => Ok(StateKind::MpState),
        Ok(_) => Err(Errno::NOTTY),
        Err(_) => Err(Errno::INVAL),
    }
}

/// The state in `bytes`, which are the kernel's structure. `EINVAL` for a wrong size.
pub(crate) fn state_from_bytes(kind: StateKind, bytes: &[u8]) -> Result<State, Errno> {
    match kind {
        StateKind::Regs => regs_from_bytes(bytes).map(State::Regs),
        StateKind::Sregs => sregs_from_bytes(bytes).map(State::Sregs),
        StateKind::MpState => kvm_mp_state::read_from_bytes(bytes).map(State::MpState).map_err(|_| Errno::INVAL),
    }
}

pub(crate) fn regs_from_bytes(bytes: &[u8]) -> Result<kvm_regs, Errno> {
    kvm_regs::read_from_bytes(bytes).map_err(|_| Errno::INVAL)
}

pub(crate) fn sregs_from_bytes(bytes: &[u8]) -> Result<Box<kvm_sregs>, Errno> {
    kvm_sregs::read_from_bytes(bytes).map(Box::new).map_err(|_| Errno::INVAL)
}

/// The kernel's structure as bytes.
pub(crate) fn state_to_bytes(state: &State) -> Vec<u8> {
    match state {
        State::Regs(regs) => regs.as_bytes().to_vec(),
        State::Sregs(sregs) => sregs.as_bytes().to_vec(),
        State::MpState(mp_state) => mp_state.as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_of_another_size_is_refused() {
        for (kind, size) in [(StateKind::Regs, 144), (StateKind::Sregs, 312), (StateKind::MpState, 4)] {
            assert!(state_from_bytes(kind, &vec![0; size]).is_ok());
            for wrong in [0, size - 1, size + 1] {
                assert_eq!(state_from_bytes(kind, &vec![0; wrong]), Err(Errno::INVAL));
            }
        }
    }

    #[test]
    fn unknown_enum_values_are_einval_and_states_not_served_enotty() {
        assert_eq!(space_from_wire(EnumOrUnknown::from_i32(2)), Err(Errno::INVAL));
        assert_eq!(state_kind(EnumOrUnknown::from_i32(-1)), Err(Errno::INVAL));
        assert_eq!(state_kind(vcpu_request::StateSet::LAPIC.into()), Err(Errno::NOTTY));
    }
}
