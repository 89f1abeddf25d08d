//! What the system can do: `check_extension`, `get_supported_cpuid`, `get_emulated_cpuid`, `get_msr_index_list`; and
//! `get_net_config` where there is no network.

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
