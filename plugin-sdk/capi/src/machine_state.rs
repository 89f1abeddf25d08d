//! The state of the VM's chips and clock.

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
        connection: Handle<Connection>,
        primary: bool,
        out: Out<kvm_pic_state>,
    ) -> Result<()> {
        let out = out.check()?;
        out.set(connection.sdk()?.pic(pic(primary))?);
        Ok(())
    }

    fn crosvm_set_pic_state(
        connection: Handle<Connection>,
        primary: bool,
        state: In<kvm_pic_state>,
    ) -> Result<()> {
        Ok(connection.sdk()?.set_pic(pic(primary), &state.read()?)?)
    }

    fn crosvm_get_ioapic_state(connection: Handle<Connection>, out: Out<kvm_ioapic_state>) -> Result<()> {
        let out = out.check()?;
        out.set(connection.sdk()?.ioapic()?);
        Ok(())
    }

    fn crosvm_set_ioapic_state(connection: Handle<Connection>, state: In<kvm_ioapic_state>) -> Result<()> {
        Ok(connection.sdk()?.set_ioapic(&state.read()?)?)
    }

    fn crosvm_get_pit_state(connection: Handle<Connection>, out: Out<kvm_pit_state2>) -> Result<()> {
        let out = out.check()?;
        out.set(connection.sdk()?.pit()?);
        Ok(())
    }

    fn crosvm_set_pit_state(connection: Handle<Connection>, state: In<kvm_pit_state2>) -> Result<()> {
        Ok(connection.sdk()?.set_pit(&state.read()?)?)
    }

    fn crosvm_get_clock(connection: Handle<Connection>, out: Out<kvm_clock_data>) -> Result<()> {
        let out = out.check()?;
        out.set(connection.sdk()?.clock()?);
        Ok(())
    }

    fn crosvm_set_clock(connection: Handle<Connection>, clock: In<kvm_clock_data>) -> Result<()> {
        Ok(connection.sdk()?.set_clock(&clock.read()?)?)
    }

    fn crosvm_set_identity_map_addr(connection: Handle<Connection>, addr: u32) -> Result<()> {
        Ok(connection.sdk()?.set_identity_map_address(addr)?)
    }
}
