//! Making, opening and taking over a tap, where every system call of that fails in turn.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use plugin_runtime::{Error, Tap};
use test_utils::faults::syscalls::{Call, failing};
use test_utils::resources::Resources;

use crate::EDQUOT;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 115, 92, 9);
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);
const MAC: [u8; 6] = [0x70, 0x5d, 0xcc, 0xfe, 0, 9];
/// What errors say of the steps.
const STEPS: [&str; 4] = ["tap", "/dev/net/tun", "socket", "the test's copy"];

pub(crate) fn each_call() {
    match taps() {
        Err(Error::SetUp { what: what @ ("opening /dev/net/tun" | "attaching to the tap"), source }) => {
            let test = "(no tap) whatever_fails_is_named_and_undone, the part of taps";
            return test_utils::kvm::skipped(test, &format!("{what}: {source}"));
        }
        taps => taps.unwrap(),
    }
    let (before, there) = (Resources::own(), interfaces());
    for n in 1.. {
        let (result, struck) = failing(Call::ANY, n, EDQUOT, taps);
        let Some(struck) = struck else {
            assert!(n > 10, "no more than {n} calls");
            return println!("Taps: {} system calls failed, one a run", n - 1);
        };
        let what = format!("call {n}, {}{:x?}", struck.name(), struck.args);
        let told = result.expect_err(&what).to_string();
        let is_named = STEPS.iter().any(|step| told.contains(step)) && told.contains(&format!("os error {EDQUOT}"));
        assert!(is_named, "{what}: {told}");
        Resources::assert_no_more_than(before, &what);
        assert_eq!(interfaces(), there, "{what}");
    }
}

fn taps() -> Result<(), Error> {
    let tap = Tap::create(ADDRESS, NETMASK, MAC)?;
    let copy = tap.as_fd().try_clone_to_owned();
    Tap::from_fd(copy.map_err(|source| Error::SetUp { what: "the test's copy", source })?)?;
    Tap::open("outboardtest9").map(drop)
}

/// The network's interfaces.
fn interfaces() -> BTreeSet<OsString> {
    fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name()).collect()
}
