//! Why a VMM refuses a request, in the usual cases.

use std::io;

use rustix::io::Errno;

/// Returns what an errno most often means in answer to a request; `None` where there is no usual case.
pub(crate) fn hint(request: &str, refusal: &io::Error) -> Option<&'static str> {
    Some(match (request, Errno::from_io_error(refusal)?) {
        ("reserve_range", Errno::PERM) => "part of the range is reserved already, here or over another connection",
        ("reserve_range", Errno::INVAL) => "the range passes the last address",
        ("reserve_range", Errno::NOSPC) => "the VM has as many reservations as a plugin may have",
        ("release_range", Errno::NOENT) => "no reservation begins at exactly this address",
        ("create_memory", Errno::PERM) => {
            "the descriptor is no memfd with the seal F_SEAL_SHRINK, which GuestMemory::new sets"
        }
        ("create_memory", Errno::INVAL) => {
            "offset, length and guest address must be whole pages, at least one, within the memfd"
        }
        ("create_memory", Errno::NOMEM) => {
            "with the memories that there are it is more than the plugin may map: run outboard with a larger --max-memory"
        }
        ("create_memory", Errno::EXIST) => "the guest has memory at part of these addresses already",
        ("create_io_event", Errno::EXIST) => "another event has such writes already",
        ("create_memory" | "create_io_event" | "create_irq_event", Errno::NOSPC) => {
            "the VM has as many objects of this kind as a plugin or the kernel may have"
        }
        ("destroy", Errno::NOENT) => "it was destroyed before, over another connection",
        ("dirty_log", Errno::NOENT) => "this memory was mapped without MemoryFlags::dirty_log",
        ("dirty_log", Errno::MSGSIZE) => "the memory has more pages than a response has bits",
        ("start", Errno::INVAL) => "the VM was started before",
        ("new_connection", Errno::MFILE) => {
            "the VM has as many connections, or the VMM as many descriptors, as it may have"
        }
        ("get_vcpus", Errno::TOOBIG) => {
            "protocol version 0 carries 16 vCPUs: run outboard with --cpus 16 or less, or use rings"
        }
        ("get_vcpus", Errno::BUSY) => "the VM's vCPUs are reached over rings (--transport ring), not over pipes",
        ("get_vcpu_rings", Errno::BUSY) => "rings are had before the start, and not where pipes were taken",
        ("get_net_config", Errno::NODATA) => {
            "the VM has no network device: run outboard with --host-ip, --tap-name or --tap-fd"
        }
        ("set_identity_map_addr", Errno::INVAL) => "the VM was started before",
        ("set_irq_routing", Errno::INVAL) => {
            "a route names a GSI or a pin that is not there, or there are more than 4096"
        }
        ("set_call_hint", Errno::TOOBIG) => "a call hint has at most 64 details",
        ("get_msrs" | "set_msrs" | "set_cpuid", Errno::TOOBIG) => "one request has at most 256 entries",
        ("enable_capability", Errno::INVAL) => "this hypervisor does not have it; ask check_extension first",
        ("get_hyperv_cpuid", _) => "this hypervisor has no Hyper-V interface; ask check_extension first",
        (_, Errno::MFILE) => "the VMM has as many descriptors as it may have: raise its limit (ulimit -Hn)",
        _ => return None,
    })
}

/// The name under which a request for a state fails. `$verb` is `get_state` or `set_state`.
macro_rules! state_request {
    ($verb:literal, $set:expr, [$($variant:path => $name:literal),* $(,)?]) => {
        match $set {
            $($variant => concat!($verb, " of ", $name),)*
        }
    };
}
pub(crate) use state_request;

#[cfg(test)]
mod tests {
    use std::io;

    use rustix::io::Errno;

    use crate::Error;

    #[test]
    fn a_refusal_says_what_was_asked_why_and_where_to_look() {
        let refused = |request, errno: Errno| Error::check(request, errno.raw_os_error()).unwrap_err().to_string();
        assert_eq!(
            refused("release_range", Errno::NOENT),
            "the VMM refused release_range: No such file or directory (os error 2); no reservation begins at exactly this \
             address (`outboard -v` logs the reason)"
        );
        assert_eq!(
            refused("set_state of sregs", Errno::INVAL),
            "the VMM refused set_state of sregs: Invalid argument (os error 22) (`outboard -v` logs the reason)"
        );
    }

    #[test]
    fn a_refusal_for_a_limit_names_the_limit_or_its_option() {
        use plugin_proto::limits::{MAX_CPUID_ENTRIES, MAX_HINTS, MAX_MSRS, MAX_ROUTES};
        assert_eq!(MAX_CPUID_ENTRIES, MAX_MSRS);
        for (request, errno, limit) in [
            ("create_memory", Errno::NOMEM, "--max-memory".to_owned()),
            ("set_irq_routing", Errno::INVAL, MAX_ROUTES.to_string()),
            ("set_call_hint", Errno::TOOBIG, MAX_HINTS.to_string()),
            ("get_msrs", Errno::TOOBIG, MAX_MSRS.to_string()),
            ("set_msrs", Errno::TOOBIG, MAX_MSRS.to_string()),
            ("set_cpuid", Errno::TOOBIG, MAX_CPUID_ENTRIES.to_string()),
        ] {
            let error = Error::check(request, errno.raw_os_error()).unwrap_err().to_string();
            assert!(error.contains(&limit), "{error}");
        }
    }

    #[test]
    fn debug_is_as_readable_as_display() {
        let error =
            Error::Refused { request: "start", source: io::Error::from_raw_os_error(Errno::INVAL.raw_os_error()) };
        assert_eq!(format!("{error:?}"), error.to_string());
        assert_eq!(format!("{:?}", Error::Disconnected), "the VMM has disconnected");
    }
}
