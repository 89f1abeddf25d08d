//! `create.irq_event`, `set_irq` and `set_irq_routing`, as the chips show them: the level of a pin whose entry is masked is
//! the IOAPIC's pending bit.

use std::os::fd::OwnedFd;

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, write};
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOAPIC, IOPORT, PIC0, PIC1};
use test_utils::raw::{LIMIT, MainSocket, Message, readable_within};

use crate::common::{Backend, Driven, on_each_backend};

on_each_backend! {
    a_line_is_seen_at_the_pins_that_it_leads_to_by_default
    an_irq_event_raises_its_line_until_the_guest_acknowledges
    an_irq_event_has_both_descriptors_whatever_was_asked
    destroy_takes_an_irq_event_away
    irq_events_share_a_line
    a_new_table_replaces_all_routes
    a_route_with_neither_is_einval
    impossible_routes_are_einval_and_the_old_table_stays
    a_table_may_be_longer_than_4096_bytes
    a_line_that_leads_nowhere_may_be_set
}

fn fresh(backend: Backend) -> Driven {
    Driven::new(backend, &Program::new())
}

/// The pending bits of the IOAPIC, behind its base, index and id.
fn ioapic_pending(main: &MainSocket) -> u32 {
    let state = main.done(&request::get_state(IOAPIC.0)).body.bytes(1).to_vec();
    u32::from_le_bytes(state[16..20].try_into().unwrap())
}

/// The pending bits of a PIC, its second byte.
fn pic_pending(main: &MainSocket, pic: (u64, usize)) -> u8 {
    main.done(&request::get_state(pic.0)).body.bytes(1)[1]
}

fn irq_event(driven: &Driven, id: u32, irq: u32, resample: bool) -> [OwnedFd; 2] {
    let fds = driven.main.done(&request::create_irq_event(id, irq, resample)).fds;
    fds.try_into().unwrap()
}

fn a_line_is_seen_at_the_pins_that_it_leads_to_by_default(backend: Backend) {
    let driven = fresh(backend);
    driven.main.done(&request::set_irq(5, true));
    assert_eq!((ioapic_pending(&driven.main), pic_pending(&driven.main, PIC0)), (1 << 5, 1 << 5));
    driven.main.done(&request::set_irq(5, false));
    // An edge that a PIC has seen stays.
    assert_eq!((ioapic_pending(&driven.main), pic_pending(&driven.main, PIC0)), (0, 1 << 5));
    driven.main.done(&request::set_irq(12, true));
    assert_eq!((ioapic_pending(&driven.main), pic_pending(&driven.main, PIC1)), (1 << 12, 1 << 4));
    driven.finish();
}

fn an_irq_event_raises_its_line_until_the_guest_acknowledges(backend: Backend) {
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).acknowledge(5).forever());
    let [trigger, resample] = irq_event(&driven, 2, 5, true);
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1)]);
    for _ in 0..5 {
        vcpu.await_io();
        write(&trigger, &1_u64.to_ne_bytes()).unwrap();
        test_utils::wait::until("the line is high", || ioapic_pending(&driven.main) == 1 << 5);
        assert!(!readable_within(&resample, std::time::Duration::ZERO), "nobody has acknowledged it");
        vcpu.resume();
        assert!(readable_within(&resample, LIMIT), "acknowledged");
        assert_eq!(ioapic_pending(&driven.main), 0);
        let mut count = [0; 8];
        rustix::io::read(&resample, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }
    driven.finish();
}

fn an_irq_event_has_both_descriptors_whatever_was_asked(backend: Backend) {
    let driven = fresh(backend);
    for (id, resample) in [(2, false), (3, true)] {
        for event in irq_event(&driven, id, 4 + id, resample) {
            assert!(!fcntl_getfl(&event).unwrap().contains(OFlags::NONBLOCK));
            assert!(!readable_within(&event, std::time::Duration::ZERO), "it starts at 0");
        }
    }
    driven.finish();
}

fn destroy_takes_an_irq_event_away(backend: Backend) {
    let driven = fresh(backend);
    let [trigger, _resample] = irq_event(&driven, 2, 5, true);
    write(&trigger, &1_u64.to_ne_bytes()).unwrap();
    test_utils::wait::until("the line is high", || ioapic_pending(&driven.main) == 1 << 5);
    driven.main.done(&request::destroy(2));
    test_utils::wait::until("the line is low", || ioapic_pending(&driven.main) == 0);
    driven.main.refused(&request::destroy(2), Errno::NOENT);
    irq_event(&driven, 2, 6, true);
    driven.finish();
}

fn irq_events_share_a_line(backend: Backend) {
    let driven = fresh(backend);
    let events: Vec<_> = (2..6).map(|id| irq_event(&driven, id, 5, true)).collect();
    write(&events[3][0], &1_u64.to_ne_bytes()).unwrap();
    test_utils::wait::until("the line is high", || ioapic_pending(&driven.main) == 1 << 5);
    for id in 2..6 {
        driven.main.done(&request::destroy(id));
    }
    test_utils::wait::until("the line is low", || ioapic_pending(&driven.main) == 0);
    driven.finish();
}

fn a_new_table_replaces_all_routes(backend: Backend) {
    let driven = fresh(backend);
    let routes =
        [request::irqchip_route(40, 2, 7), request::irqchip_route(40, 1, 3), request::msi_route(41, 0xfee0_0000, 0x30)];
    driven.main.done(&request::set_irq_routing(&routes));
    driven.main.done(&request::set_irq(5, true));
    driven.main.done(&request::set_irq(41, true));
    assert_eq!(ioapic_pending(&driven.main), 0, "GSI 5 leads nowhere now");
    driven.main.done(&request::set_irq(40, true));
    assert_eq!((ioapic_pending(&driven.main), pic_pending(&driven.main, PIC1)), (1 << 7, 1 << 3));
    driven.main.done(&request::set_irq(40, false));
    driven.main.done(&request::set_irq_routing(&[]));
    driven.main.done(&request::set_irq(40, true));
    assert_eq!(ioapic_pending(&driven.main), 0);
    driven.finish();
}

fn a_route_with_neither_is_einval(backend: Backend) {
    let driven = fresh(backend);
    let neither = Message::new().uint(1, 5);
    for routes in [vec![neither.clone()], vec![request::irqchip_route(5, 2, 7), neither]] {
        driven.main.refused(&request::set_irq_routing(&routes), Errno::INVAL);
    }
    driven.main.done(&request::set_irq(5, true));
    assert_eq!(ioapic_pending(&driven.main), 1 << 5, "the old table stays");
    driven.finish();
}

fn impossible_routes_are_einval_and_the_old_table_stays(backend: Backend) {
    let driven = fresh(backend);
    for routes in [
        vec![request::irqchip_route(5, 3, 0)],
        vec![request::irqchip_route(5, u32::MAX, 0)],
        vec![request::irqchip_route(5, 2, 24)],
        vec![request::irqchip_route(5, 0, 8)],
        vec![request::msi_route(4096, 0xfee0_0000, 0)],
        vec![request::msi_route(u32::MAX, 0xfee0_0000, 0)],
        (0..4097).map(|_| request::irqchip_route(5, 2, 5)).collect(),
    ] {
        driven.main.refused(&request::set_irq_routing(&routes), Errno::INVAL);
    }
    driven.main.done(&request::set_irq(5, true));
    assert_eq!(ioapic_pending(&driven.main), 1 << 5);
    driven.finish();
}

fn a_table_may_be_longer_than_4096_bytes(backend: Backend) {
    let driven = fresh(backend);
    let mut routes: Vec<_> = (0..1000).map(|irq| request::msi_route(irq + 24, 0xfee0_0000, irq)).collect();
    routes.push(request::irqchip_route(5, 2, 9));
    let request = request::set_irq_routing(&routes);
    assert!(request.as_bytes().len() > 4096);
    driven.main.done(&request);
    driven.main.done(&request::set_irq(5, true));
    assert_eq!(ioapic_pending(&driven.main), 1 << 9);
    driven.finish();
}

fn a_line_that_leads_nowhere_may_be_set(backend: Backend) {
    let driven = fresh(backend);
    for irq in [24, 4095, 4096, u32::MAX] {
        driven.main.done(&request::set_irq(irq, true));
    }
    assert_eq!(ioapic_pending(&driven.main), 0);
    driven.finish();
}
