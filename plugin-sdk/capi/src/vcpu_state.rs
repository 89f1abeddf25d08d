//! The registers and other state of a vCPU that stands at an event.

use std::sync::Mutex;

use kvm_bindings::{
    kvm_debugregs, kvm_fpu, kvm_lapic_state, kvm_mp_state, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use plugin_sdk::Error;

use crate::errno::Result;
use crate::export::export;
use crate::pointers::{Handle, In, Out};
use crate::vcpu::Vcpu;

/// What a setter of the SDK gives.
trait Set {
    fn outcome(self) -> std::result::Result<(), Error>;
}

/// A note was taken, which goes with the resume.
impl Set for () {
    fn outcome(self) -> std::result::Result<(), Error> {
        Ok(())
    }
}

/// The VMM was asked.
impl Set for std::result::Result<(), Error> {
    fn outcome(self) -> Self {
        self
    }
}

/// Defines a getter and a setter.
macro_rules! states {
    ($($type:ident: $getter:ident $get:ident, $setter:ident $set:ident;)*) => {export! {$(
        fn $getter(vcpu: Handle<Mutex<Vcpu>>, out: Out<$type>) -> Result<()> {
            let out = out.check()?;
            out.set(vcpu.lock()?.with_state(|state| state.$get())?);
            Ok(())
        }

        fn $setter(vcpu: Handle<Mutex<Vcpu>>, value: In<$type>) -> Result<()> {
            let value = value.read()?;
            vcpu.lock()?.with_state(|state| state.$set(&value).outcome())
        }
    )*}};
}

states! {
    kvm_regs: crosvm_vcpu_get_regs regs, crosvm_vcpu_set_regs set_regs;
    kvm_sregs: crosvm_vcpu_get_sregs sregs, crosvm_vcpu_set_sregs set_sregs;
    kvm_fpu: crosvm_vcpu_get_fpu fpu, crosvm_vcpu_set_fpu set_fpu;
    kvm_debugregs: crosvm_vcpu_get_debugregs debugregs, crosvm_vcpu_set_debugregs set_debugregs;
    kvm_xcrs: crosvm_vcpu_get_xcrs xcrs, crosvm_vcpu_set_xcrs set_xcrs;
    kvm_lapic_state: crosvm_vcpu_get_lapic_state lapic, crosvm_vcpu_set_lapic_state set_lapic;
    kvm_mp_state: crosvm_vcpu_get_mp_state mp_state, crosvm_vcpu_set_mp_state set_mp_state;
    kvm_vcpu_events: crosvm_vcpu_get_vcpu_events vcpu_events, crosvm_vcpu_set_vcpu_events set_vcpu_events;
}
