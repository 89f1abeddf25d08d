//! What a plugin may use up.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::config::Limits;
use super::fault::{Fault, Part};

/// The limits that the VMM's own hard limits let it set.
pub(super) fn allowed(wished: Limits) -> Limits {
    Limits {
        descriptors: lowered(wished.descriptors, Resource::Nofile, "descriptors"),
        processes: lowered(wished.processes, Resource::Nproc, "processes"),
    }
}

fn lowered(wished: u64, resource: Resource, name: &str) -> u64 {
    match getrlimit(resource).maximum {
        Some(hard) if hard < wished => {
            tracing::warn!("the plugin's limit of {wished} {name} is above the hard limit: it gets {hard}");
            hard
        }
        _ => wished,
    }
}

/// Sets them for this process and all that come from it. None of them can be raised again. Processes are counted in the
/// jail's user namespace alone.
pub(super) fn set(limits: Limits) -> Result<(), Fault> {
    for (resource, limit) in [(Resource::Nofile, limits.descriptors), (Resource::Nproc, limits.processes)] {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }).map_err(Fault::of(Part::Limits))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_above_the_hard_limit_is_lowered_to_it_and_no_more() {
        let hard = |resource| getrlimit(resource).maximum.unwrap_or(u64::MAX - 1);
        let most = Limits { descriptors: hard(Resource::Nofile), processes: hard(Resource::Nproc) };
        assert_eq!(allowed(Limits { descriptors: u64::MAX - 1, processes: u64::MAX - 1 }), most);
        assert_eq!(allowed(most), most);
        let few = Limits { descriptors: 2, processes: 1 };
        assert_eq!(allowed(few), few);
    }
}
