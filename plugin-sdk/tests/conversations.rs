//! The SDK asks what a generated conversation asks, and reports what it is answered.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

use std::os::fd::AsFd;

use plugin_proto::messages::main_request::Message as Request;
use plugin_proto::messages::main_request::create::Constructor;
use plugin_sdk::{AddressSpace, Connection, Error, GuestMemory, MemoryFlags, WriteMatch};
use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use test_utils::fake::Vmm;
use test_utils::strategies::{Turn, conversation};

/// Asks by the SDK what the turn asks; `None` for what the SDK asks only of objects it has made itself.
fn ask(connection: &mut Connection, request: &Request) -> Option<Result<(), Error>> {
    let done = match request {
        Request::Create(create) => match create.constructor.as_ref()? {
            Constructor::Memory(memory) => {
                let memfd = GuestMemory::new(memory.length).unwrap();
                let flags = MemoryFlags { read_only: memory.read_only, dirty_log: memory.dirty_log };
                connection.map_memory(&memfd, 0..memory.length, memory.start, flags).map(drop)
            }
            Constructor::IoEvent(event) => {
                connection.create_io_event(AddressSpace::Pio, event.address, WriteMatch::Any).map(drop)
            }
            Constructor::IrqEvent(event) => connection.create_irq_event(event.irq_id).map(drop),
            _ => return None,
        },
        Request::ReserveRange(range) if range.length == 0 => connection.release_range(AddressSpace::Pio, range.start),
        Request::ReserveRange(range) if range.coalesce => {
            connection.reserve_coalesced_write_range(AddressSpace::Pio, range.start, range.length)
        }
        Request::ReserveRange(range) if range.async_write => {
            connection.reserve_async_write_range(AddressSpace::Pio, range.start, range.length)
        }
        Request::ReserveRange(range) => connection.reserve_range(AddressSpace::Pio, range.start, range.length),
        Request::SetIrq(irq) => connection.set_irq(irq.irq_id, irq.active),
        Request::PauseVcpus(pause) => connection.pause_vcpus(pause.cpu_mask, pause.user),
        Request::CheckExtension(check) => connection.check_extension(check.extension).map(drop),
        _ => return None,
    };
    Some(done)
}

/// How many descriptors come with the answer.
fn descriptors(turn: &Turn) -> usize {
    match &turn.request {
        Request::Create(create) if turn.errno == 0 => match create.constructor {
            Some(Constructor::IoEvent(_)) => 1,
            Some(Constructor::IrqEvent(_)) => 2,
            _ => 0,
        },
        _ => 0,
    }
}

proptest! {
    #[test]
    fn each_request_goes_out_as_it_was_meant_and_each_answer_comes_back(conversation in conversation(12)) {
        let (vmm, mut connection) = Vmm::new();
        let event = eventfd(0, EventfdFlags::empty()).unwrap();
        for turn in &conversation.0 {
            if matches!(turn.request, Request::Destroy(_)) {
                continue;
            }
            vmm.send(&turn.answer(), &vec![event.as_fd(); descriptors(turn)]);
            let done = ask(&mut connection, &turn.request).unwrap();
            prop_assert_eq!(done.err().and_then(|error| error.errno()).unwrap_or(0), turn.errno, "{}", turn);
            match (vmm.request().0, &turn.request) {
                // Its id is the SDK's, and which writes it is about is the test's.
                (Request::Create(sent), Request::Create(meant)) => {
                    let same = |a: &Constructor, b: &Constructor| std::mem::discriminant(a) == std::mem::discriminant(b);
                    prop_assert!(same(&sent.constructor.unwrap(), meant.constructor.as_ref().unwrap()), "{}", turn);
                }
                (Request::ReserveRange(sent), Request::ReserveRange(meant)) if meant.length == 0 => {
                    prop_assert_eq!((sent.start, sent.length), (meant.start, 0), "{}", turn);
                }
                (sent, meant) => prop_assert_eq!(&sent, meant, "{}", turn),
            }
        }
    }
}
