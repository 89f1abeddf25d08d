//! What the built-in policy lets a plugin ask of what it was handed.

use super::Filter;
use super::compile::{ALLOW, NOTIFY};
use super::interpreter::{Call, run};

fn ioctl(filter: &Filter, request: u64) -> u32 {
    run(&filter.program, &Call::new(libc::SYS_ioctl as u32, [3, request, 0, 0, 0, 0]))
}

/// Of a tap, by number: the kernel's `linux/if_tun.h`.
const TAP: [u64; 14] = [
    0x4004_54c8, // TUNSETNOCSUM
    0x8004_54cf, // TUNGETFEATURES
    0x4004_54d0, // TUNSETOFFLOAD
    0x4004_54d1, // TUNSETTXFILTER
    0x8004_54d2, // TUNGETIFF
    0x8004_54d3, // TUNGETSNDBUF
    0x4004_54d4, // TUNSETSNDBUF
    0x8004_54d7, // TUNGETVNETHDRSZ
    0x4004_54d8, // TUNSETVNETHDRSZ
    0x8010_54db, // TUNGETFILTER
    0x4004_54dc, // TUNSETVNETLE
    0x8004_54dd, // TUNGETVNETLE
    0x4004_54de, // TUNSETVNETBE
    0x8004_54df, // TUNGETVNETBE
];

/// What would change the host's interface, or gives more than the tap.
const NOT_OF_A_TAP: [u64; 13] = [
    0x4004_54c9, // TUNSETDEBUG
    0x4004_54ca, // TUNSETIFF
    0x4004_54cb, // TUNSETPERSIST
    0x4004_54cc, // TUNSETOWNER
    0x4004_54cd, // TUNSETLINK
    0x4004_54ce, // TUNSETGROUP
    0x4010_54d5, // TUNATTACHFILTER
    0x4004_54d9, // TUNSETQUEUE
    0x4004_54da, // TUNSETIFINDEX
    0x8004_54e0, // TUNSETSTEERINGEBPF
    0x8004_54e1, // TUNSETFILTEREBPF
    0x4004_54e2, // TUNSETCARRIER
    0x8924,      // SIOCSIFHWADDR
];

#[test]
fn tap_requests_of_glibc_and_musl_are_allowed() {
    let filter = Filter::builtin().unwrap();
    for request in TAP {
        assert_eq!(ioctl(&filter, request), ALLOW, "{request:#x}");
        // An `int`, extended.
        assert_eq!(ioctl(&filter, i64::from(request as i32) as u64), ALLOW, "{request:#x}");
    }
    for request in NOT_OF_A_TAP {
        assert_eq!(ioctl(&filter, request), NOTIFY, "{request:#x}");
    }
}
