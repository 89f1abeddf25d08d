//! Messages on main sockets that are cut, strange or at the edges of their types.

use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::{MainSocket, Message, Wait};

use crate::common::{Backend, Counters, Driven, on_each_backend};
use crate::samples::{EXTREMES, in_other_clothes, main_requests, main_shapes};
use crate::{mutated, splitmix};

on_each_backend! {
    each_request_cut_at_each_byte
    each_number_at_its_extremes
    requests_in_other_clothes
    requests_changed_at_random
    state_of_any_length
    datagrams_of_any_length
}

/// A connection that is made anew where the VMM has closed it.
struct Stubborn<'a> {
    driven: &'a Driven,
    connection: MainSocket,
}

impl<'a> Stubborn<'a> {
    fn new(driven: &'a Driven) -> Self {
        Self { driven, connection: driven.connect() }
    }

    /// Sends what may be answered or may close the connection, and sees that one of both happens.
    fn send(&mut self, datagram: &[u8]) {
        self.connection.send(datagram, &[]).unwrap();
        if self.connection.receive().is_none() {
            self.connection = self.driven.connect();
        }
    }
}

/// Sends all of `cases` in a few rounds to one VM, which must serve the guest and other connections after it, and hold no
/// more after the last round than after the first.
fn survives(backend: Backend, kind: &str, cases: &[Vec<u8>]) {
    const ROUNDS: usize = 3;
    let driven = Driven::new(backend, &Program::new().output(0x10, 1).forever());
    let mut vcpu = driven.running_one(&[request::reserve(IOPORT, 0x10, 1)]);
    vcpu.await_io();
    let mut counters = Counters::new(format!("{} {kind}", backend.name()));
    let mut after_first = None;
    for _ in 0..ROUNDS {
        let mut connection = Stubborn::new(&driven);
        for case in cases {
            connection.send(case);
            counters.count();
        }
        drop(connection);
        driven.assert_alive();
        match after_first {
            None => after_first = Some(driven.resources()),
            Some(before) => driven.assert_holds_no_more_than(before, kind),
        }
    }
    // A case may have paused the vCPU, or taken its port or its memory away; a last pause comes in any case.
    driven.main.done(&request::pause(1, 0x600d));
    vcpu.resume();
    while vcpu.await_exit() != Wait::User(0x600d) {
        vcpu.resume();
    }
    driven.finish();
}

fn each_request_cut_at_each_byte(backend: Backend) {
    let mut cases = Vec::new();
    for request in main_requests().into_iter().chain([request::start()]) {
        let bytes = request.as_bytes();
        cases.extend((0..bytes.len()).map(|length| bytes[..length].to_vec()));
        // The same inside, with the outer length right.
        let fields = test_utils::raw::Fields::parse(bytes);
        let body = fields.bytes(fields.numbers()[0]);
        let cut = |length| Message::new().bytes(fields.numbers()[0], &body[..length]).as_bytes().to_vec();
        cases.extend((0..body.len()).map(cut));
    }
    survives(backend, "main requests cut", &cases);
}

fn each_number_at_its_extremes(backend: Backend) {
    for shape in main_shapes() {
        if shape.name == "create.memory" || shape.name == "destroy" {
            // These could take the guest's memory away; see `memfds` and `ids_at_their_extremes`.
            continue;
        }
        let cases: Vec<_> =
            shape.at_extremes_of(shape.fitting).iter().map(|request| request.as_bytes().to_vec()).collect();
        survives(backend, &format!("{} at extremes", shape.name), &cases);
    }
    let ids = EXTREMES.into_iter().filter(|id| *id as u32 != crate::common::RAM_ID);
    let cases: Vec<_> = ids
        .flat_map(|id| {
            let create = Message::new().message(1, &Message::new().uint(1, id).message(3, &Message::new()));
            let destroy = Message::new().message(2, &Message::new().uint(1, id));
            [create.clone(), destroy.clone(), create, destroy].map(|request| request.as_bytes().to_vec())
        })
        .collect();
    survives(backend, "ids at extremes", &cases);
}

fn requests_in_other_clothes(backend: Backend) {
    let cases: Vec<_> = main_requests().iter().flat_map(in_other_clothes).collect();
    survives(backend, "main requests in other clothes", &cases);
}

fn requests_changed_at_random(backend: Backend) {
    let mut random = 0x6f75_7462_6f61_7264_u64;
    let requests = main_requests();
    let change = |_| mutated(requests[splitmix(&mut random) as usize % requests.len()].as_bytes(), &mut random);
    let cases: Vec<_> = (0..2000).map(change).collect();
    survives(backend, "main requests changed at random", &cases);
}

fn state_of_any_length(backend: Backend) {
    let mut cases = Vec::new();
    for set in 0..6 {
        for length in [0, 1, 15, 16, 17, 47, 48, 49, 111, 112, 113, 215, 216, 217, 1024, 4096, 0x3_0000] {
            for byte in [0, 0xff] {
                cases.push(request::set_state(set, &vec![byte; length]).as_bytes().to_vec());
            }
        }
    }
    survives(backend, "VM state of any length", &cases);
}

fn datagrams_of_any_length(backend: Backend) {
    let driven = Driven::new(backend, &Program::new());
    let mut counters = Counters::new(format!("{} datagrams of any length", backend.name()));
    const LONGEST: usize = 0x40000;
    let longest = |length: usize| {
        let request = request::get_shutdown_eventfd();
        // The tag and length of what fills the rest take 5 bytes.
        let filler = length - request.as_bytes().len() - 5;
        let datagram = request.bytes(1000, &vec![0; filler]);
        assert_eq!(datagram.as_bytes().len(), length);
        datagram
    };
    for length in [0x4100, 0x1_0000, LONGEST - 1, LONGEST] {
        driven.main.done(&longest(length));
        counters.count();
    }
    for length in [LONGEST + 1, LONGEST + 4096] {
        let other = driven.connect();
        // The kernel may refuse to carry it at all.
        if other.send(longest(length).as_bytes(), &[]).is_ok() {
            other.assert_disconnected();
        }
        driven.assert_alive();
        counters.count();
    }
    let routes: Vec<_> = (0..300).map(|irq| request::msi_route(irq, 0xfee0_0000, 0x30)).collect();
    driven.main.ask(&request::set_irq_routing(&routes));
    let routes: Vec<_> = (0..20_000).map(|irq| Message::new().uint(1, irq)).collect();
    driven.main.ask(&request::set_irq_routing(&routes));
    driven.assert_alive();
    driven.finish();
}
