//! The registers and other state of a vCPU that stands at an event.

use std::sync::Mutex;

use kvm_bindings::{
    kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use plugin_sdk::{Error, State};

use crate::errno::Result;
use crate::export::export;
use crate::pointers::{Handle, In, Out};
use crate::vcpu::Vcpu;

/// Defines a getter and a setter.
macro_rules! states {
    ($($getter:ident $setter:ident $type:ident: $get:expr, $set:expr;)*) => {export! {$(
        fn $getter(vcpu: Handle<Mutex<Vcpu>>, out: Out<$type>) -> Result<()> {
            let out = out.check()?;
            out.set(vcpu.lock()?.with_state($get)?);
            Ok(())
        }

        fn $setter(vcpu: Handle<Mutex<Vcpu>>, value: In<$type>) -> Result<()> {
            let value = value.read()?;
            vcpu.lock()?.with_state(|state| $set(state, &value))
        }
    )*}};
}

/// For setters that only take a note.
fn local<T>(set: impl FnOnce(&mut State<'_>, &T)) -> impl FnOnce(&mut State<'_>, &T) -> std::result::Result<(), Error> {
    move |state, value| {
        set(state, value);
        Ok(())
    }
}

states! {
    crosvm_vcpu_get_regs crosvm_vcpu_set_regs kvm_regs: State::regs, local(State::set_regs);
    crosvm_vcpu_get_sregs crosvm_vcpu_set_sregs kvm_sregs: State::sregs, local(State::set_sregs);
    crosvm_vcpu_get_fpu crosvm_vcpu_set_fpu kvm_fpu: State::fpu, State::set_fpu;
    crosvm_vcpu_get_debugregs crosvm_vcpu_set_debugregs kvm_debugregs: State::debugregs, local(State::set_debugregs);
    crosvm_vcpu_get_xcrs crosvm_vcpu_set_xcrs kvm_xcrs: State::xcrs, State::set_xcrs;
    crosvm_vcpu_get_lapic_state crosvm_vcpu_set_lapic_state kvm_lapic_state: State::lapic, State::set_lapic;
    crosvm_vcpu_get_mp_state crosvm_vcpu_set_mp_state kvm_mp_state: State::mp_state, State::set_mp_state;
    crosvm_vcpu_get_vcpu_events crosvm_vcpu_set_vcpu_events kvm_vcpu_events: State::vcpu_events, State::set_vcpu_events;
}
