//! Limits of a process, each lowered step by step, so that what is limited runs out at one step of the start after the other.

use rustix::process::Resource;
use test_utils::kvm::skipped;
use test_utils::wait;

use crate::common::{Backend, Counters, Ended, in_parallel, on_each_backend};
use crate::{WAYS, run};

on_each_backend! {
    with_too_few_descriptors_the_end_is_clear
}

/// Sees that `ended` is clear: whether it went well.
fn went_well(ended: &Ended) -> bool {
    // Where the test's own starter leaves descriptors open, the fewest are too few for the program to be loaded.
    if ended.code == Some(127) && ended.logged(&["error while loading shared libraries"]) > 0 {
        return false;
    }
    ended.assert_clear();
    ended.code == Some(0)
}

fn with_too_few_descriptors_the_end_is_clear(backend: Backend) {
    for way in WAYS {
        // From as many as a program needs to be loaded, to more than one vCPU's VM has.
        let counts = 4..=48;
        let mut counters = Counters::new(format!("{} starts with few descriptors, {way:?}", backend.name()));
        let well = std::sync::Mutex::new(Vec::new());
        in_parallel(counts.clone(), |most| {
            let ended = run(backend, way).limited(Resource::Nofile, most).run();
            well.lock().unwrap().push((most, went_well(&ended)));
        });
        let well = well.into_inner().unwrap();
        well.iter().for_each(|_| counters.count());
        // Descriptors that are under way between any processes of this user, of the tests beside for example, count against
        // the limit too (unix(7), ETOOMANYREFS). So the most may be too few for a moment.
        let enough = || went_well(&run(backend, way).limited(Resource::Nofile, *counts.end()).run());
        assert!(well.contains(&(*counts.start(), false)), "{way:?} {well:?}");
        assert!(well.contains(&(*counts.end(), true)) || wait::holds(enough), "{way:?} {well:?}");
    }
}

/// The kernel limits the processes of ordinary users alone, so this needs root to become one who has no others.
#[test]
fn with_too_few_threads_the_end_is_clear() {
    if !rustix::process::geteuid().is_root() {
        return skipped("(not root) limits::with_too_few_threads_the_end_is_clear", &"another user is needed");
    }
    for (way, user) in WAYS.into_iter().zip(54_000..) {
        let mut counters = Counters::new(format!("starts with few threads, {way:?}"));
        let mut well = Vec::new();
        // One at a time: the limit is on all processes of the user.
        for most in 1..=16 {
            let ended = run(Backend::Mock, way).run_by(user).limited(Resource::Nproc, most).run();
            well.push(went_well(&ended));
            counters.count();
        }
        assert!(!well.first().unwrap() && *well.last().unwrap(), "{way:?} {well:?}");
    }
}
