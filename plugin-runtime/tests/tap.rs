//! Taps, where this process may make them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::net::Ipv4Addr;
use std::os::fd::AsFd;

use plugin_runtime::{Error, Tap};
use rustix::fs::{OFlags, fcntl_getfl};

const MAC: [u8; 6] = [0x70, 0x5d, 0xcc, 0xfe, 0, 1];
const NETMASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 252);

/// The tap, or `None` after the test was told of as skipped, where this process may not make one.
fn or_skip(test: &str, tap: Result<Tap, Error>) -> Option<Tap> {
    match tap {
        Err(Error::SetUp { what: what @ ("opening /dev/net/tun" | "attaching to the tap"), source }) => {
            test_utils::kvm::skipped(&format!("(no tap) {test}"), &format!("{what}: {source}"));
            None
        }
        tap => Some(tap.unwrap()),
    }
}

#[test]
fn a_tap_that_is_made_has_the_addresses_asked_for_and_does_not_block() {
    let address = Ipv4Addr::new(100, 115, 92, 5);
    let made = Tap::create(address, NETMASK, MAC);
    let Some(tap) = or_skip("a_tap_that_is_made_has_the_addresses_asked_for_and_does_not_block", made) else { return };
    // Asked anew, through a second descriptor, the kernel says the same.
    let tap = Tap::from_fd(tap.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert_eq!((tap.address(), tap.netmask(), tap.mac()), (address, NETMASK, MAC));
    assert!(fcntl_getfl(&tap).unwrap().contains(OFlags::NONBLOCK));
}

#[test]
fn a_named_tap_without_an_address_is_one_all_the_same() {
    let opened = Tap::open("outboardtest0");
    let Some(tap) = or_skip("a_named_tap_without_an_address_is_one_all_the_same", opened) else { return };
    assert_eq!((tap.address(), tap.netmask()), (Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED));
    assert_ne!(tap.mac(), [0; 6]);
}

#[test]
fn what_is_no_tap_is_refused_by_name() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let error = Tap::from_fd(file.into()).unwrap_err().to_string();
    assert!(error.starts_with("asking the tap's name: "), "{error}");
    let error = Tap::open("a-name-of-16-byt").unwrap_err().to_string();
    assert!(error.contains("naming the tap") || error.contains("/dev/net/tun"), "{error}");
}
