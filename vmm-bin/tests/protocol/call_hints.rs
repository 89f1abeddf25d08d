//! `set_call_hint`: registers that come with an access.

use rustix::io::Errno;
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT, MMIO, RegHint};
use test_utils::raw::vcpu_request::{DEBUGREGS, REGS, SREGS};
use test_utils::raw::{Io, VcpuChannel, VcpuPipes};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    registers_come_with_the_access_that_was_hinted_at_and_no_other
    the_first_matching_entry_says_what_comes_beside_them
    an_entry_matches_by_each_of_four_registers_and_all_it_names
    a_hint_replaces_the_one_before_and_address_0_removes_it
    a_hint_holds_for_reads_and_for_memory
    registers_that_came_can_be_sent_back
    a_posted_write_comes_without
    an_unknown_space_is_einval
}

const ALL: RegHint = RegHint { matches: [None; 4], send_sregs: true, send_debugregs: true };

fn reservations() -> [test_utils::raw::Message; 2] {
    [request::reserve(IOPORT, 0x10, 4), request::reserve(MMIO, 0x9000, 4)]
}

/// Which registers came: general, segment and control, debug. Those that did are those that can be asked for.
fn attached(vcpu: &mut VcpuPipes, io: &Io) -> [bool; 3] {
    let parts = [(&io.regs, REGS), (&io.sregs, SREGS), (&io.debugregs, DEBUGREGS)];
    parts.map(|(bytes, set)| {
        if !bytes.is_empty() {
            assert_eq!(*bytes, vcpu.get(set));
        }
        !bytes.is_empty()
    })
}

fn registers_come_with_the_access_that_was_hinted_at_and_no_other(backend: Backend) {
    let program = Program::new().mov(0x41).output(0x10, 1).output(0x11, 1).input(0x10, 1).store(0x9000, 1).forever();
    let driven = Driven::new(backend, &program);
    driven.main.done(&request::set_call_hint(IOPORT, 0x10, true, &[ALL]));
    let mut vcpu = driven.running_one(&reservations());
    for _ in 0..5 {
        for expected in [[true; 3], [false; 3], [false; 3], [false; 3]] {
            let io = vcpu.await_io();
            assert_eq!(attached(&mut vcpu, &io), expected, "{io:?}");
            vcpu.answer(&[0x41]);
        }
    }
    vcpu.assert_never_split();
    driven.finish();
}

fn the_first_matching_entry_says_what_comes_beside_them(backend: Backend) {
    let program = (1..=4).fold(Program::new(), |program, value| program.mov(value).output(0x10, 1)).forever();
    let driven = Driven::new(backend, &program);
    let hints = [
        RegHint { matches: [Some(1), None, None, None], send_sregs: true, send_debugregs: false },
        RegHint { matches: [Some(2), None, None, None], send_sregs: false, send_debugregs: true },
        RegHint { matches: [Some(2), None, None, None], send_sregs: true, send_debugregs: true },
        RegHint { matches: [Some(3), None, None, None], send_sregs: false, send_debugregs: false },
    ];
    driven.main.done(&request::set_call_hint(IOPORT, 0x10, true, &hints));
    let mut vcpu = driven.running_one(&reservations());
    for _ in 0..3 {
        for expected in [[true, true, false], [true, false, true], [true, false, false], [true, false, false]] {
            let io = vcpu.await_io();
            assert_eq!(attached(&mut vcpu, &io), expected, "{:?}", io.data);
            vcpu.resume();
        }
    }
    driven.finish();
}

fn an_entry_matches_by_each_of_four_registers_and_all_it_names(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).forever());
    // The guest's own code keeps the port in DX.
    let rdx = |value: u64| value << 16 | 0x10;
    let entry = |matches, send_sregs, send_debugregs| RegHint { matches, send_sregs, send_debugregs };
    let hints = [
        entry([None, Some(7), Some(8), Some(rdx(9))], true, true),
        entry([None, Some(7), None, None], true, false),
        entry([None, None, Some(7), None], false, true),
        entry([None, None, None, Some(rdx(7))], true, true),
        entry([Some(7), None, None, None], true, false),
    ];
    driven.main.done(&request::set_call_hint(IOPORT, 0x10, true, &hints));
    let mut vcpu = driven.running_one(&reservations());
    for (rax_to_rdx, expected) in [
        ([0, 7, 8, rdx(9)], [true, true]),
        ([0, 7, 8, rdx(0)], [true, false]),
        ([0, 0, 7, rdx(0)], [false, true]),
        ([0, 0, 0, rdx(7)], [true, true]),
        ([7, 0, 0, rdx(0)], [true, false]),
        ([8, 8, 8, rdx(8)], [false, false]),
    ] {
        let mut regs = vcpu.await_io().regs;
        for (place, value) in regs.chunks_mut(8).zip(rax_to_rdx) {
            place.copy_from_slice(&u64::to_le_bytes(value));
        }
        vcpu.send(&test_utils::raw::vcpu_request::resume_with(&[], &regs, &[]));
        let io = vcpu.await_io();
        let [general, sregs, debugregs] = attached(&mut vcpu, &io);
        assert!(general);
        assert_eq!([sregs, debugregs], expected, "{rax_to_rdx:?}");
        vcpu.resume();
    }
    driven.finish();
}

fn a_hint_replaces_the_one_before_and_address_0_removes_it(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).output(0x11, 1).forever());
    let mut vcpu = driven.running_one(&reservations());
    for (address, expected) in [(0x10, [true, false]), (0x11, [false, true]), (0, [false; 2]), (0x10, [true, false])] {
        let io = vcpu.await_io();
        assert_eq!(io.address, 0x10);
        driven.main.done(&request::set_call_hint(IOPORT, address, true, &[]));
        vcpu.resume();
        vcpu.await_io();
        vcpu.resume();
        for expected in expected {
            let io = vcpu.await_io();
            assert_eq!(attached(&mut vcpu, &io), [expected, false, false], "{address:#x}: {io:?}");
            vcpu.resume();
        }
    }
    driven.finish();
}

fn a_hint_holds_for_reads_and_for_memory(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().input(0x10, 1).load(0x9000, 1).store(0x9000, 1).forever());
    let mut vcpu = driven.running_one(&reservations());
    for (space, address, on_write, which) in
        [(IOPORT, 0x10, false, 0), (MMIO, 0x9000, false, 1), (MMIO, 0x9000, true, 2)]
    {
        vcpu.await_io();
        driven.main.done(&request::set_call_hint(space, address, on_write, &[ALL]));
        vcpu.answer(&[0]);
        for _ in 0..2 {
            vcpu.await_io();
            vcpu.answer(&[0]);
        }
        for access in 0..3 {
            let io = vcpu.await_io();
            assert_eq!(attached(&mut vcpu, &io), [access == which; 3], "{io:?}");
            vcpu.answer(&[0]);
        }
    }
    driven.finish();
}

fn registers_that_came_can_be_sent_back(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().mov(0).input(0x10, 2).output(0x11, 2).forever());
    driven.main.done(&request::set_call_hint(IOPORT, 0x10, false, &[ALL]));
    let mut vcpu = driven.running_one(&reservations());
    for round in 1..20_u16 {
        let io = vcpu.await_io();
        let mut regs = io.regs.clone();
        // RBX
        regs[8..16].copy_from_slice(&u64::from(round).to_le_bytes());
        vcpu.send(&test_utils::raw::vcpu_request::resume_with(&round.to_le_bytes(), &regs, &io.sregs));
        assert_eq!(vcpu.await_io().data, round.to_le_bytes(), "the read has its result");
        assert_eq!(vcpu.get(REGS)[8..16], u64::from(round).to_le_bytes());
        vcpu.resume();
    }
    driven.finish();
}

fn a_posted_write_comes_without(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x30, 1).output(0x10, 1).forever());
    driven.main.done(&request::set_call_hint(IOPORT, 0x30, true, &[ALL]));
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1), request::reserve_posted(IOPORT, 0x30, 1)]);
    for _ in 0..5 {
        let io = vcpu.await_io();
        assert!(io.no_resume && [&io.regs, &io.sregs, &io.debugregs].iter().all(|bytes| bytes.is_empty()), "{io:?}");
        assert_eq!(vcpu.await_io().address, 0x10);
        vcpu.resume();
    }
    driven.finish();
}

fn an_unknown_space_is_einval(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    for space in [2, i32::MAX as u64, -1_i64 as u64] {
        driven.main.refused(&request::set_call_hint(space, 0x10, true, &[]), Errno::INVAL);
    }
    driven.finish();
}
