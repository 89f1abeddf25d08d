//! What the system can do: `check_extension`, `get_supported_cpuid`, `get_emulated_cpuid`, `get_msr_index_list`; and
//! `get_net_config`.

use std::collections::BTreeSet;

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::request;
use test_utils::raw::vcpu_request::CpuidEntry;

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    an_extension_is_there_where_its_number_is_above_0
    the_supported_cpuid_has_each_leaf_once
    the_emulated_cpuid_is_answered
    the_msr_list_has_each_msr_once
    without_a_network_its_configuration_is_enodata
    a_tap_is_given_with_its_addresses
}

fn fresh(backend: Backend) -> Driven {
    Driven::new(backend, &Program::new())
}

fn an_extension_is_there_where_its_number_is_above_0(backend: Backend) {
    let driven = fresh(backend);
    let has = |extension| driven.main.done(&request::check_extension(extension)).body.uint(1) != 0;
    // KVM_CAP_IRQCHIP and KVM_CAP_USER_MEMORY are 1 where they are there; KVM_CAP_NR_MEMSLOTS is a number above 1.
    for extension in [0, 3, 10] {
        assert!(has(extension), "{extension}");
    }
    for extension in [0xffff, i32::MAX as u32, i32::MAX as u32 + 1, u32::MAX] {
        assert!(!has(extension), "{extension}");
    }
    driven.finish();
}

fn the_supported_cpuid_has_each_leaf_once(backend: Backend) {
    let driven = fresh(backend);
    let ask = || -> Vec<_> {
        let answer = driven.main.done(&request::get_supported_cpuid());
        answer.body.messages(1).iter().map(CpuidEntry::parse).collect()
    };
    let entries = ask();
    assert_eq!(entries[0].function, 0);
    assert!(entries[0].values[0] > 0, "the highest leaf");
    let keys: BTreeSet<_> = entries.iter().map(|entry| (entry.function, entry.index)).collect();
    assert_eq!(keys.len(), entries.len());
    assert!(keys.contains(&(1, None)));
    // Nobody's leaf has subleaves one time and none another.
    for entry in &entries {
        assert_eq!(
            keys.contains(&(entry.function, None)),
            entry.index.is_none(),
            "leaf {:#x} has an index here and none there",
            entry.function
        );
    }
    driven.finish();
}

fn the_emulated_cpuid_is_answered(backend: Backend) {
    let driven = fresh(backend);
    let answer = driven.main.done(&request::get_emulated_cpuid());
    answer.body.messages(1).iter().map(CpuidEntry::parse).for_each(drop);
    driven.finish();
}

fn the_msr_list_has_each_msr_once(backend: Backend) {
    let driven = fresh(backend);
    let indices = driven.main.done(&request::get_msr_index_list()).body.uints(1);
    let set: BTreeSet<_> = indices.iter().collect();
    assert_eq!(set.len(), indices.len());
    // IA32_SYSENTER_CS, which each processor of 64 bits has.
    assert!(set.contains(&0x174), "{indices:x?}");
    assert!(indices.iter().all(|index| *index <= u32::MAX.into()));
    driven.finish();
}

fn without_a_network_its_configuration_is_enodata(backend: Backend) {
    let driven = fresh(backend);
    driven.main.refused(&request::get_net_config(), Errno::NODATA);
    driven.finish();
}

fn a_tap_is_given_with_its_addresses(backend: Backend) {
    const MAC: [u8; 6] = [0x70, 0x5d, 0xcc, 0xfe, 0, 3];
    // Each backend's test may run at the same time: networks of their own.
    let (ip, wire_ip) = match backend {
        Backend::Kvm => ("100.115.92.5", 0x055c_7364),
        Backend::Mock => ("100.115.92.9", 0x095c_7364),
    };
    if let Err(error) = plugin_runtime::Tap::open("outboardprobe0") {
        test_utils::kvm::skipped(&format!("(no tap) a_tap_is_given_with_its_addresses on {}", backend.name()), &error);
        return;
    }
    let options = ["--host-ip", ip, "--netmask", "255.255.255.252", "--mac", "70:5d:cc:fe:00:03"];
    let driven = Driven::with(backend, &Program::new(), &options);
    let mut answer = driven.main.done(&request::get_net_config());
    assert_eq!(answer.body.bytes(1), MAC);
    assert_eq!((answer.body.uint(2), answer.body.uint(3)), (wire_ip, 0xfcff_ffff));
    let tap = answer.fds.pop().unwrap();
    assert!(answer.fds.is_empty());
    // The plugin may ask again; what it gets is a tap, and does not block.
    assert_eq!(driven.main.done(&request::get_net_config()).fds.len(), 1);
    let tap = plugin_runtime::Tap::from_fd(tap).unwrap();
    assert_eq!((tap.address().to_string(), tap.mac()), (ip.to_owned(), MAC));
    let flags = rustix::fs::fcntl_getfl(&tap).unwrap();
    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));
    driven.finish();
}
