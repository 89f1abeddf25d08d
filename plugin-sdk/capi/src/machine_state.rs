//! The state of the VM's chips and clock.

use std::sync::Mutex;

use kvm_bindings::{kvm_clock_data, kvm_ioapic_state, kvm_pic_state, kvm_pit_state2};
use plugin_sdk::Pic;

use crate::connection::Connection;
use crate::errno::Result;
use crate::export::export;
use crate::pointers::{Handle, In, Out};

fn pic(primary: bool) -> Pic {
    if primary { Pic::Primary } else { Pic::Secondary }
}

export! {
    fn crosvm_get_pic_state(
        connection: Handle<Mutex<Connection>>,
        primary: bool,
        out: Out<kvm_pic_state>,
    ) -> Result<()> {
        let out = out.check()?;
        out.set(connection.lock()?.sdk.pic(pic(primary))?);
        Ok(())
    }

    fn crosvm_set_pic_state(
        connection: Handle<Mutex<Connection>>,
        primary: bool,
        state: In<kvm_pic_state>,
    ) -> Result<()> {
        Ok(connection.lock()?.sdk.set_pic(pic(primary), &state.read()?)?)
    }

    fn crosvm_get_ioapic_state(connection: Handle<Mutex<Connection>>, out: Out<kvm_ioapic_state>) -> Result<()> {
        let out = out.check()?;
        out.set(connection.lock()?.sdk.ioapic()?);
        Ok(())
    }

    fn crosvm_set_ioapic_state(connection: Handle<Mutex<Connection>>, state: In<kvm_ioapic_state>) -> Result<()> {
        Ok(connection.lock()?.sdk.set_ioapic(&state.read()?)?)
    }

    fn crosvm_get_pit_state(connection: Handle<Mutex<Connection>>, out: Out<kvm_pit_state2>) -> Result<()> {
        let out = out.check()?;
        out.set(connection.lock()?.sdk.pit()?);
        Ok(())
    }

    fn crosvm_set_pit_state(connection: Handle<Mutex<Connection>>, state: In<kvm_pit_state2>) -> Result<()> {
        Ok(connection.lock()?.sdk.set_pit(&state.read()?)?)
    }

    fn crosvm_get_clock(connection: Handle<Mutex<Connection>>, out: Out<kvm_clock_data>) -> Result<()> {
        let out = out.check()?;
        out.set(connection.lock()?.sdk.clock()?);
        Ok(())
    }

    fn crosvm_set_clock(connection: Handle<Mutex<Connection>>, clock: In<kvm_clock_data>) -> Result<()> {
        Ok(connection.lock()?.sdk.set_clock(&clock.read()?)?)
    }

    fn crosvm_set_identity_map_addr(connection: Handle<Mutex<Connection>>, addr: u32) -> Result<()> {
        Ok(connection.lock()?.sdk.set_identity_map_address(addr)?)
    }
}
