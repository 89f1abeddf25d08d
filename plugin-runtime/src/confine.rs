//! What the VMM itself gives up once its plugin runs.
//!
//! A thread's capabilities and filter are its own and go to the threads it starts. The supervisor confines itself before
//! it starts any, so that every thread of a VM is confined, and no thread of a program that runs several.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

use crate::error::{Error, Result};
use crate::seccomp;

/// Leaves this thread, for good, no capability, no way to gain one, and no system call but those of `vmm.policy`.
///
/// KVM asks for no capability after its device was opened, and taps are made before.
pub(crate) fn confine() -> Result<()> {
    give_up_capabilities().map_err(Error::set_up("giving up capabilities"))?;
    set_no_new_privs(true).map_err(Error::set_up("giving up new privileges"))?;
    seccomp::confine_vmm()
}

fn give_up_capabilities() -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    // Who may not shrink the set of what an executable could give has none of these powers, nor does `no_new_privs` let
    // an executable give any.
    if capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        // The kernel says where its capabilities end, before 64.
        for number in 0..64 {
            match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
                Ok(()) => {}
                Err(Errno::INVAL) => break,
                Err(errno) => return Err(errno),
            }
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
}
