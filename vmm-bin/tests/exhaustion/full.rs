//! A full disk, and a kernel that has no more room for what is asked.

use std::fs::File;

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::request;

use crate::common::{Backend, Counters, Driven, Outboard, on_each_backend};

on_each_backend! {
    what_is_printed_to_a_full_disk_fails_by_name
    io_events_run_out_and_come_back
}

fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

fn what_is_printed_to_a_full_disk_fails_by_name(backend: Backend) {
    let name = backend.name();
    let mut counters = Counters::new(format!("{name} commands that print to a full disk"));
    for call in [
        &["demo"][..],
        &["bench", "-n", "20", "--blocks", "2", "--starts", "1"],
        &["bench", "-n", "20", "--blocks", "2", "--starts", "1", "--json"],
        &["soak", "--minutes", "0.01"],
    ] {
        let on = ["--hypervisor", name];
        let ended = Outboard::new(call.iter().chain(&on)).stdout(full()).run();
        ended.assert_clear().assert_failure(&[]).assert_logged(&["No space left on device"]);
        counters.count();
    }
}

fn io_events_run_out_and_come_back(backend: Backend) {
    let mut counters = Counters::new(format!("{} I/O events until there is no room", backend.name()));
    let driven = Driven::new(backend, &Program::new());
    let before = driven.resources();
    for _ in 0..2 {
        let mut made = Vec::new();
        loop {
            let id = made.len() as u32 + 1;
            let answer =
                driven.main.ask(&request::create_io_event(id, request::MMIO, 0x10_0000 + 8 * u64::from(id), 4, 0));
            counters.count();
            if answer.errno != 0 {
                assert_eq!(answer.errno, i64::from(Errno::NOSPC.raw_os_error()));
                break;
            }
            made.push(id);
        }
        assert!(made.len() > 500, "{}", made.len());
        for id in made {
            driven.main.done(&request::destroy(id));
        }
        driven.assert_holds_no_more_than(before, "I/O events without room");
    }
    driven.finish();
}
