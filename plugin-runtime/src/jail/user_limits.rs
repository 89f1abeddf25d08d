//! Limits of every plugin on what the kernel counts for a user, or gives to the more important.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::fault::{Fault, Part};

/// Signals that wait, and timers, which need one each, are counted in the jail's namespace and for the VMM's user: two to each
/// of 254 vCPUs, and few enough for many VMs. Locked memory is what the kernel gives by default (`MLOCK_LIMIT`). No plugin
/// needs message queues, a real-time priority or a nice value below 0.
///
/// A core of one byte is too short for a file, and with that limit the kernel starts no program that takes one either
/// (`core_pattern` with a pipe), as it does with a limit of 0 (`do_coredump` of the kernel's `fs/coredump.c`).
const LIMITS: [(Resource, u64); 6] = [
    (Resource::Core, 1),
    (Resource::Sigpending, 512),
    (Resource::Memlock, 8 << 20),
    (Resource::Msgqueue, 0),
    (Resource::Rtprio, 0),
    (Resource::Nice, 0),
];

/// Sets them for this process and all that come from it. What the VMM itself has less of stays as it is. None of them can be
/// raised again.
pub(super) fn lower() -> Result<(), Fault> {
    for (resource, limit) in LIMITS {
        let limit = getrlimit(resource).maximum.map_or(limit, |hard| hard.min(limit));
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }).map_err(Fault::of(Part::Limits))?;
    }
    Ok(())
}
