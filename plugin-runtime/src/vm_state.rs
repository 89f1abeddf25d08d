//! The state of a VM's chips, as `get_state` and `set_state` carry it.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use hypervisor::{Pic, Vm};
use plugin_proto::messages::main_request::StateSet;
use protobuf::EnumOrUnknown;

use crate::errno::Errno;
use crate::refusal::Refusal;
use crate::wire::{from_bytes, to_bytes};

/// The kernel's structure of `set`, as bytes.
pub(crate) fn get(vm: &dyn Vm, set: EnumOrUnknown<StateSet>) -> Result<Vec<u8>, Refusal> {
    match set.enum_value().map_err(unknown)? {
        StateSet::PIC0 => vm.pic(Pic::Primary).map(|state| to_bytes(&state)),
        StateSet::PIC1 => vm.pic(Pic::Secondary).map(|state| to_bytes(&state)),
        StateSet::IOAPIC => vm.ioapic().map(|state| to_bytes(&state)),
        StateSet::PIT => vm.pit().map(|state| to_bytes(&state)),
        StateSet::CLOCK => vm.clock().map(|state| to_bytes(&state)),
    }
    .map_err(|error| Refusal::from(&error))
}

/// Sets what `bytes`, the kernel's structure, say. `EINVAL` for a wrong size.
pub(crate) fn set(vm: &dyn Vm, set: EnumOrUnknown<StateSet>, bytes: &[u8]) -> Result<(), Refusal> {
    match set.enum_value().map_err(unknown)? {
        StateSet::PIC0 => vm.set_pic(Pic::Primary, &from_bytes(bytes)?),
        StateSet::PIC1 => vm.set_pic(Pic::Secondary, &from_bytes(bytes)?),
        StateSet::IOAPIC => vm.set_ioapic(&from_bytes(bytes)?),
        StateSet::PIT => vm.set_pit(&from_bytes(bytes)?),
        StateSet::CLOCK => vm.set_clock(&from_bytes(bytes)?),
    }
    .map_err(|error| Refusal::from(&error))
}

fn unknown(number: i32) -> Refusal {
    Refusal::new(Errno::INVAL, format!("there is no state set {number} of a VM"))
}
