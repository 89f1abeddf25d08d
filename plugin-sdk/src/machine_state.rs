//! The state of the VM's chips and clock, which are in the kernel.

use kvm_bindings::{kvm_clock_data, kvm_ioapic_state, kvm_pic_state, kvm_pit_state2};
use plugin_proto::messages::main_request::{GetState, SetIdentityMapAddr, SetState, StateSet};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::connection::ask;
use crate::state::parse;
use crate::{Connection, Error, Pic};

impl Connection {
    /// The state of an 8259 interrupt controller.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn pic(&mut self, pic: Pic) -> Result<kvm_pic_state, Error> {
        self.get_state(set_of(pic))
    }

    /// Sets the state of an 8259 interrupt controller.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn set_pic(&mut self, pic: Pic, state: &kvm_pic_state) -> Result<(), Error> {
        self.set_state(set_of(pic), state)
    }

    /// The state of the I/O APIC.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn ioapic(&mut self) -> Result<kvm_ioapic_state, Error> {
        self.get_state(StateSet::IOAPIC)
    }

    /// Sets the state of the I/O APIC.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn set_ioapic(&mut self, state: &kvm_ioapic_state) -> Result<(), Error> {
        self.set_state(StateSet::IOAPIC, state)
    }

    /// The state of the interval timer.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn pit(&mut self) -> Result<kvm_pit_state2, Error> {
        self.get_state(StateSet::PIT)
    }

    /// Sets the state of the interval timer.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn set_pit(&mut self, state: &kvm_pit_state2) -> Result<(), Error> {
        self.set_state(StateSet::PIT, state)
    }

    /// The guest's clock, in nanoseconds since the VM was made unless it was set.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn clock(&mut self) -> Result<kvm_clock_data, Error> {
        self.get_state(StateSet::CLOCK)
    }

    /// Sets the guest's clock.
    ///
    /// # Errors
    /// As the kernel says: `EINVAL` for flags that it does not know.
    pub fn set_clock(&mut self, clock: &kvm_clock_data) -> Result<(), Error> {
        self.set_state(StateSet::CLOCK, clock)
    }

    /// Tells the kernel a page of guest-physical addresses that the guest does not use. Some processors need it for guests in
    /// real mode.
    ///
    /// # Errors
    /// [`Error::Refused`]: `EINVAL` once the VM has started.
    pub fn set_identity_map_address(&mut self, address: u32) -> Result<(), Error> {
        let request = SetIdentityMapAddr { address, ..Default::default() };
        ask!(self, "set_identity_map_addr", SetIdentityMapAddr(request)).map(drop)
    }

    fn get_state<T: FromBytes>(&mut self, set: StateSet) -> Result<T, Error> {
        let request = GetState { set: set.into(), ..Default::default() };
        let name = named!("get_state", set);
        ask!(self, name, GetState(request)).and_then(|(answer, _)| parse(&answer.state))
    }

    fn set_state<T: IntoBytes + Immutable>(&mut self, set: StateSet, state: &T) -> Result<(), Error> {
        let request = SetState { set: set.into(), state: state.as_bytes().to_vec(), ..Default::default() };
        let name = named!("set_state", set);
        ask!(self, name, SetState(request)).map(drop)
    }
}

/// The request's name with that of the state.
macro_rules! named {
    ($verb:literal, $set:expr) => {
        $crate::hints::state_request!(
            $verb,
            $set,
            [
                StateSet::PIC0 => "the first PIC",
                StateSet::PIC1 => "the second PIC",
                StateSet::IOAPIC => "the IOAPIC",
                StateSet::PIT => "the PIT",
                StateSet::CLOCK => "the clock",
            ]
        )
    };
}
use named;

fn set_of(pic: Pic) -> StateSet {
    match pic {
        Pic::Primary => StateSet::PIC0,
        Pic::Secondary => StateSet::PIC1,
    }
}
