//! Giving up what the jail's first process could do.

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use super::fault::{Fault, Part};

/// For this process and all that come from it: no capability in any set, and none to be had from an executable. Nobody in
/// the jail can look into this process.
pub(super) fn give_up() -> Result<(), Fault> {
    let failed = Fault::of(Part::Privileges);
    clear_ambient_capability_set().map_err(&failed)?;
    // The kernel knows no more than 64, and says where its own end.
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break,
            Err(errno) => return Err(failed(errno)),
        }
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).map_err(&failed)?;
    set_no_new_privs(true).map_err(&failed)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(&failed)
}
