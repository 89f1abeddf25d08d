//! The width of an access's items, which lies beyond version 0.

use test_utils::guest::Program;
use test_utils::raw::VcpuRing;
use test_utils::raw::request::{self, IOPORT, ITEM_WIDTHS, MMIO, RINGS};
use test_utils::raw::vcpu_ring::{kind, width};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    pipes_report_the_width_of_items_where_negotiated
    rings_report_the_width_of_items_where_negotiated
    what_was_negotiated_last_before_the_start_counts
    after_the_start_negotiating_changes_nothing
}

/// Two items of one byte, then one of two; loads and stores; and writes that nobody waits for.
fn program() -> Program {
    let program = Program::new().input_string(0x10, 1, 2).input(0x11, 2).load(0x9000, 4).store(0x9004, 2);
    program.output_string(0x12, b"abc").output(0x13, 4).input(0x14, 1)
}

fn reservations() -> [test_utils::raw::Message; 4] {
    [
        request::reserve(IOPORT, 0x10, 3),
        request::reserve(IOPORT, 0x14, 1),
        request::reserve_posted(IOPORT, 0x13, 1),
        request::reserve(MMIO, 0x9000, 8),
    ]
}

/// By address: the width that is reported, and all bytes that pass, in however many events.
const EXPECTED: [(u64, u64, usize); 7] =
    [(0x10, 1, 2), (0x11, 2, 2), (0x9000, 4, 4), (0x9004, 2, 2), (0x12, 1, 3), (0x13, 4, 4), (0x14, 1, 1)];

fn pipes_report(driven: &Driven, reported: bool) {
    let mut vcpu = driven.running_one(&reservations());
    for (address, width, bytes) in EXPECTED {
        let mut passed = 0;
        while passed < bytes {
            let io = vcpu.await_io();
            assert_eq!((io.address, io.width), (address, if reported { width } else { 0 }));
            passed += io.data.len();
            if !io.no_resume {
                vcpu.resume();
            }
        }
        assert_eq!(passed, bytes, "{address:#x}");
    }
}

fn rings_report(ring: &mut VcpuRing, reported: bool) {
    for (address, expected, bytes) in EXPECTED {
        let mut passed = 0;
        while passed < bytes {
            let record = ring.receive().unwrap();
            let expected = if reported { expected } else { 0 };
            assert_eq!((record.address, u64::from(width(record.flags))), (address, expected));
            assert_eq!(record.flags >> 12, 0);
            passed += record.data as usize;
            if record.kind != kind::POSTED {
                ring.resume();
            }
        }
        assert_eq!(passed, bytes, "{address:#x}");
    }
}

fn pipes_report_the_width_of_items_where_negotiated(backend: Backend) {
    for (options, reported) in [(&[][..], false), (&[], true), (&["--transport", "pipe"], true)] {
        let driven = Driven::with(backend, &program(), options);
        if reported {
            let answer = driven.main.done(&request::negotiate(1, ITEM_WIDTHS));
            assert_eq!((answer.body.uint(2), answer.fds.len()), (ITEM_WIDTHS, 0));
        }
        pipes_report(&driven, reported);
        driven.finish();
    }
}

fn rings_report_the_width_of_items_where_negotiated(backend: Backend) {
    for (offered, reported) in [(RINGS, false), (RINGS | ITEM_WIDTHS, true)] {
        let driven = Driven::new(backend, &program());
        assert_eq!(driven.main.done(&request::negotiate(1, offered)).body.uint(2), offered);
        rings_report(&mut driven.ring(&reservations()), reported);
        driven.finish();
    }
}

fn what_was_negotiated_last_before_the_start_counts(backend: Backend) {
    let driven = Driven::new(backend, &program());
    driven.main.done(&request::negotiate(1, ITEM_WIDTHS));
    driven.main.done(&request::negotiate(1, 0));
    pipes_report(&driven, false);
    driven.finish();
}

fn after_the_start_negotiating_changes_nothing(backend: Backend) {
    for (offered, agreed) in [(0, 0), (ITEM_WIDTHS, ITEM_WIDTHS)] {
        let driven = Driven::new(backend, &program());
        driven.main.done(&request::negotiate(1, offered));
        let mut vcpu = driven.running_one(&reservations());
        let answer = driven.main.done(&request::negotiate(1, ITEM_WIDTHS));
        assert_eq!(answer.body.uint(2), agreed);
        assert_eq!(vcpu.await_io().width, agreed / ITEM_WIDTHS);
        driven.finish();
    }
}
