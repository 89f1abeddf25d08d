//! A plugin that stops reading, floods, says half of something, closes what it should keep, or stops altogether.

use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;
use rustix::net::{Shutdown, shutdown};
use rustix::pipe::fcntl_getpipe_size;
use rustix::process::Signal;
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::vcpu_request::{self, SREGS};
use test_utils::raw::{self, MainSocket, VcpuPipes};

use crate::common::{Backend, Counters, Driven, in_parallel, on_each_backend};

on_each_backend! {
    one_that_does_not_read_its_answers_loses_that_connection
    one_that_does_not_read_a_vcpus_answers_holds_up_that_vcpu_alone
    a_flood_of_bad_datagrams_fills_no_log
    connections_that_come_and_go_leave_nothing
    many_connections_at_once_do_no_harm
    half_closed_connections_are_dropped
    a_vcpus_pipes_may_be_closed_in_any_order
    a_stopped_plugin_stops_nothing_else
    a_stopped_plugin_is_killed_at_the_end
    a_plugin_may_exit_in_the_middle_of_an_exit
    refused_requests_do_not_put_off_the_end_of_an_exits_time
}

fn talking(backend: Backend, vcpus: u32) -> (Driven, Vec<VcpuPipes>) {
    let program = Program::new().output(0x10, 1).input(0x11, 1).forever();
    let driven = Driven::with(backend, &program, &["-c", &vcpus.to_string()]);
    let vcpus = driven.running(&[request::reserve(IOPORT, 0x10, 2)]);
    (driven, vcpus)
}

/// Sends without reading until the VMM has had enough: how many requests that took.
fn flood(connection: &MainSocket, bytes: &[u8]) -> usize {
    (0..1_000_000).find(|_| connection.send(bytes, &[]).is_err()).expect("it reads for ever")
}

fn one_that_does_not_read_its_answers_loses_that_connection(backend: Backend) {
    let (driven, mut vcpus) = talking(backend, 1);
    let mut counters = Counters::new(format!("{} floods without reading", backend.name()));
    vcpus[0].await_io();
    vcpus[0].resume();
    let before = driven.resources();
    for request in [
        request::reserve(IOPORT, 0x20, 0),
        request::new_connection(),
        request::get_vcpus(),
        request::destroy(99),
        request::get_state(request::IOAPIC.0),
    ] {
        for _ in 0..3 {
            let other = driven.connect();
            assert!(flood(&other, request.as_bytes()) > 0);
            drop(other);
            driven.assert_alive();
            // The guest is served all the while.
            vcpus[0].await_io();
            vcpus[0].resume();
            counters.count();
        }
    }
    driven.assert_holds_no_more_than(before, "floods without reading");
    driven.finish().assert_logged(&["WARN", "relay", "dropped"]);
}

fn one_that_does_not_read_a_vcpus_answers_holds_up_that_vcpu_alone(backend: Backend) {
    let (driven, mut vcpus) = talking(backend, 2);
    vcpus.iter_mut().for_each(|vcpu| drop(vcpu.await_io()));
    let mut counters = Counters::new(format!("{} vCPU requests whose answers are not read", backend.name()));
    let ask = |counters: &mut Counters| {
        vcpus[0].send(&vcpu_request::get_state(SREGS.0));
        vcpus[0].await_taken();
        counters.count();
    };
    ask(&mut counters);
    let unread = || ioctl_fionread(vcpus[0].responses()).unwrap() as usize;
    test_utils::wait::until("the first answer is there", || unread() > 0);
    // The kernel does not begin an answer in a page that has no room for all of it. The last one asked for has none at all.
    let room = fcntl_getpipe_size(vcpus[0].responses()).unwrap() / 4096 * (4096 / unread());
    (0..room).for_each(|_| ask(&mut counters));
    driven.assert_alive();
    for _ in 0..100 {
        vcpus[1].resume();
        vcpus[1].await_io();
    }
    driven.relay.command("exit 0");
    driven.end_soon().assert_success();
}

fn a_flood_of_bad_datagrams_fills_no_log(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} bad datagrams in a flood", backend.name()));
    let before = driven.resources();
    let begun = Instant::now();
    for _ in 0..2000 {
        let other = driven.connect();
        other.send(&[0xff; 5], &[]).unwrap();
        other.assert_disconnected();
        counters.count();
    }
    let seconds = begun.elapsed().as_secs() as usize + 2;
    driven.assert_holds_no_more_than(before, "bad datagrams");
    let ended = driven.finish();
    assert!(ended.logged(&["dropped"]) <= 100 * seconds, "{} lines", ended.logged(&["dropped"]));
}

fn connections_that_come_and_go_leave_nothing(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} connections that come and go", backend.name()));
    let before = driven.resources();
    for round in 0..1000 {
        // Closed ones do not count: none is refused.
        let other = driven.main.new_connection();
        if round % 2 == 0 {
            other.done(&request::get_shutdown_eventfd());
        }
        counters.count();
    }
    driven.assert_holds_no_more_than(before, "connections that come and go");
    driven.finish();
}

fn many_connections_at_once_do_no_harm(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} connections at once", backend.name()));
    let before = driven.resources();
    let mut connections = Vec::new();
    for _ in 0..2000 {
        let answer = driven.main.ask(&request::new_connection());
        // Where there is a limit, it is told.
        assert_eq!(answer.errno == 0, !answer.fds.is_empty());
        connections.extend(answer.fds.into_iter().map(MainSocket::new));
        counters.count();
    }
    driven.main.done(&request::reserve(IOPORT, 0x10, 1));
    drop(connections);
    driven.assert_holds_no_more_than(before, "connections at once");
    driven.assert_alive();
    driven.finish();
}

fn half_closed_connections_are_dropped(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} connections half closed", backend.name()));
    let before = driven.resources();
    for how in [Shutdown::Write, Shutdown::Read, Shutdown::Both] {
        for _ in 0..30 {
            let other = driven.connect();
            shutdown(&other, how).unwrap();
            let _ = other.send(request::get_vcpus().as_bytes(), &[]);
            counters.count();
            // Dropped at last, whatever the VMM has made of it before.
        }
    }
    driven.assert_alive();
    driven.assert_holds_no_more_than(before, "connections half closed");
    driven.finish();
}

fn a_vcpus_pipes_may_be_closed_in_any_order(backend: Backend) {
    let mut counters = Counters::new(format!("{} vCPU pipes closed", backend.name()));
    for order in 0..4 {
        let (driven, mut vcpus) = talking(backend, 2);
        let (first, second) = vcpus.split_at_mut(1);
        first[0].await_io();
        if order & 1 == 0 {
            first[0].close_requests();
        }
        if order & 2 == 0 {
            first[0].close_responses();
        }
        for _ in 0..10 {
            second[0].await_io();
            second[0].resume();
        }
        driven.finish();
        counters.count();
    }
}

fn a_stopped_plugin_stops_nothing_else(backend: Backend) {
    let (driven, mut vcpus) = talking(backend, 1);
    let mut counters = Counters::new(format!("{} plugins stopped and continued", backend.name()));
    for _ in 0..20 {
        driven.relay.command("stop");
        for _ in 0..10 {
            driven.assert_alive();
            vcpus[0].await_io();
            vcpus[0].resume();
        }
        driven.relay.signal(Signal::CONT);
        counters.count();
    }
    driven.relay.command("exit 0");
    // Any of the stops may take effect only after its continuation.
    driven.relay.continue_until_it_ends();
    driven.end_soon().assert_success();
}

fn a_stopped_plugin_is_killed_at_the_end(backend: Backend) {
    let (driven, mut vcpus) = talking(backend, 1);
    vcpus[0].await_io();
    driven.relay.signal(Signal::STOP);
    driven.signal(Signal::TERM);
    let ended = driven.end();
    ended.assert_failure(&["ended by signal 15 (SIGTERM)"]).assert_logged(&["relay", "did not exit in time"]);
    ended.assert_took(Duration::from_secs(2)..Duration::from_secs(5));
}

fn a_plugin_may_exit_in_the_middle_of_an_exit(backend: Backend) {
    let mut counters = Counters::new(format!("{} exits in the middle of an exit", backend.name()));
    let cases: Vec<_> = ["exit 0", "exit 3", "kill 9", "kill 6"]
        .into_iter()
        .flat_map(|how| (0..8).map(move |moment| (how, moment)))
        .collect();
    cases.iter().for_each(|_| counters.count());
    in_parallel(cases, |(how, moment)| {
        let (driven, mut vcpus) = talking(backend, 4);
        for (index, vcpu) in vcpus.iter_mut().enumerate() {
            match moment {
                0 => {}
                // In a write, in a read, after half a request, within a pause.
                1 => drop(vcpu.await_io()),
                2 => {
                    vcpu.await_io();
                    vcpu.resume();
                    vcpu.await_io();
                }
                3 if index == 2 => {
                    vcpu.await_io();
                    vcpu.send(&vcpu_request::get_state(SREGS.0));
                }
                4 => {
                    vcpu.await_io();
                    driven.main.done(&request::pause(1 << index, 5));
                    vcpu.resume();
                    vcpu.await_exit();
                }
                5 if index == 1 => vcpu.close_responses(),
                6 if index == 1 => vcpu.close_requests(),
                7 => {
                    // Whatever the vCPU is at, its answer is there already.
                    vcpu.resume();
                }
                _ => {}
            }
        }
        driven.relay.command(how);
        let ended = driven.end_soon();
        match how {
            "exit 0" => ended.assert_success(),
            "exit 3" => ended.assert_failure(&["relay", "code 3"]),
            "kill 9" => ended.assert_failure(&["relay", "SIGKILL"]),
            _ => ended.assert_failure(&["relay", "SIGABRT"]),
        };
    });
}

fn refused_requests_do_not_put_off_the_end_of_an_exits_time(backend: Backend) {
    let driven = Driven::with(backend, &Program::new().output(0x10, 1).forever(), &["--exit-timeout", "0.3"]);
    let event = driven.main.descriptor(&request::get_shutdown_eventfd());
    let mut vcpus = driven.running(&[request::reserve(IOPORT, 0x10, 1)]);
    vcpus[0].await_io();
    let end = Instant::now() + raw::LIMIT;
    while !raw::readable_within(&event, Duration::ZERO) {
        assert!(Instant::now() < end, "the VMM refuses without end");
        vcpus[0].send(&vcpu_request::wait());
        if vcpus[0].has_response_within(Duration::from_millis(100)) {
            vcpus[0].receive();
        }
    }
    driven.relay.command("exit 0");
    driven.end_soon().assert_failure(&["vCPU 0", "write of 1 bytes at 0x10", "relay"]);
}
