//! Whole conversations between a plugin and a VMM, generated.

use std::fmt;

use plugin_proto::messages::main_request::create::{Constructor, IoEvent, IrqEvent, Memory};
use plugin_proto::messages::main_request::{self, Message as Request};
use plugin_proto::messages::{AddressSpace, MainRequest, main_response};
use proptest::collection::vec;
use proptest::prelude::*;

/// Errnos that a VMM refuses requests with.
const REFUSALS: [i32; 5] = [1, 2, 17, 22, 28];

/// What a plugin asks, in order, and what it is told. It is shown a line a turn.
#[derive(Clone, PartialEq)]
pub struct Conversation(pub Vec<Turn>);

/// One request, and the errno it is answered with: 0 where it is done.
#[derive(Clone, PartialEq)]
pub struct Turn {
    /// What is asked.
    pub request: Request,
    /// What is answered.
    pub errno: i32,
}

impl Turn {
    /// The request as it goes over the wire.
    #[must_use]
    pub fn message(&self) -> MainRequest {
        MainRequest { message: Some(self.request.clone()), ..Default::default() }
    }

    /// The least that an answer to it says: its name, and whether it was done.
    #[must_use]
    pub fn answer(&self) -> plugin_proto::messages::MainResponse {
        use main_response::Message as Response;
        let message = match &self.request {
            Request::Create(_) => Response::Create(Default::default()),
            Request::Destroy(_) => Response::Destroy(Default::default()),
            Request::ReserveRange(_) => Response::ReserveRange(Default::default()),
            Request::SetIrq(_) => Response::SetIrq(Default::default()),
            Request::PauseVcpus(_) => Response::PauseVcpus(Default::default()),
            Request::CheckExtension(_) => Response::CheckExtension(Default::default()),
            // These are all that a conversation has.
            other => unreachable!("{other:?}"),
        };
        plugin_proto::messages::MainResponse { errno: self.errno, message: Some(message), ..Default::default() }
    }
}

/// Conversations of up to `turns` requests on a main socket, none of which needs a descriptor but memory's. Ids, ports, lines
/// and pages are few, so that requests meet: what is made is often made again, taken away, or overlaps.
///
/// A case shrinks to the turns that matter, with small numbers.
pub fn conversation(turns: usize) -> impl Strategy<Value = Conversation> {
    let errno = prop_oneof![4 => Just(0), 1 => proptest::sample::select(&REFUSALS[..])];
    let turn = (request(), errno).prop_map(|(request, errno)| Turn { request, errno });
    vec(turn, 0..=turns).prop_map(Conversation)
}

fn request() -> impl Strategy<Value = Request> {
    let id = || 0..4_u32;
    let port = || 0x300..0x304_u64;
    prop_oneof![
        (id(), constructor()).prop_map(|(id, constructor)| {
            Request::Create(main_request::Create { id, constructor: Some(constructor), ..Default::default() })
        }),
        id().prop_map(|id| Request::Destroy(main_request::Destroy { id, ..Default::default() })),
        (port(), 0..4_u64, 0..3_u8).prop_map(|(start, length, kind)| {
            let space = AddressSpace::IOPORT.into();
            Request::ReserveRange(main_request::ReserveRange {
                space,
                start,
                length,
                async_write: kind > 0,
                coalesce: kind > 1,
                ..Default::default()
            })
        }),
        (0..4_u32, any::<bool>()).prop_map(|(irq_id, active)| {
            Request::SetIrq(main_request::SetIrq { irq_id, active, ..Default::default() })
        }),
        (0..4_u64, 0..4_u64).prop_map(|(cpu_mask, user)| {
            Request::PauseVcpus(main_request::PauseVcpus { cpu_mask, user, ..Default::default() })
        }),
        (0..4_u32).prop_map(|extension| {
            Request::CheckExtension(main_request::CheckExtension { extension, ..Default::default() })
        }),
    ]
}

fn constructor() -> impl Strategy<Value = Constructor> {
    let page = |number: u64| number * 0x1000;
    prop_oneof![
        (0..4_u64, 1..4_u64, any::<bool>()).prop_map(move |(start, pages, read_only)| {
            let (start, length) = (page(start), page(pages));
            Constructor::Memory(Memory { start, length, read_only, ..Default::default() })
        }),
        (0x300..0x304_u64, prop_oneof![Just(0_u32), Just(1), Just(2)])
            .prop_map(|(address, length)| { Constructor::IoEvent(IoEvent { address, length, ..Default::default() }) }),
        (0..4_u32).prop_map(|irq_id| Constructor::IrqEvent(IrqEvent { irq_id, ..Default::default() })),
    ]
}

impl fmt::Display for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.request {
            Request::Create(create) => {
                write!(f, "create {}: ", create.id)?;
                match &create.constructor {
                    Some(Constructor::Memory(memory)) => {
                        let kind = if memory.read_only { "read-only memory" } else { "memory" };
                        write!(f, "{kind} at {:#x}, {:#x} bytes", memory.start, memory.length)
                    }
                    Some(Constructor::IoEvent(event)) => {
                        write!(f, "I/O event at port {:#x}, writes of {} bytes", event.address, event.length)
                    }
                    Some(Constructor::IrqEvent(event)) => write!(f, "event of line {}", event.irq_id),
                    other => write!(f, "{other:?}"),
                }
            }
            Request::Destroy(destroy) => write!(f, "destroy {}", destroy.id),
            Request::ReserveRange(range) if range.length == 0 => write!(f, "release port {:#x}", range.start),
            Request::ReserveRange(range) => {
                let kind = match (range.async_write, range.coalesce) {
                    (_, true) => ", writes coalesced",
                    (true, false) => ", writes posted",
                    (false, false) => "",
                };
                write!(f, "reserve port {:#x}, {} of them{kind}", range.start, range.length)
            }
            Request::SetIrq(irq) => write!(f, "line {} is {}", irq.irq_id, if irq.active { "high" } else { "low" }),
            Request::PauseVcpus(pause) => write!(f, "pause {:#b} for {}", pause.cpu_mask, pause.user),
            Request::CheckExtension(check) => write!(f, "has it extension {}", check.extension),
            other => write!(f, "{other:?}"),
        }?;
        match self.errno {
            0 => f.write_str(" -> done"),
            errno => write!(f, " -> errno {errno}"),
        }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\n")?;
        self.0.iter().try_for_each(|turn| writeln!(f, "  {turn}"))
    }
}
