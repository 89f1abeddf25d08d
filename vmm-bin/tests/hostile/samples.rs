//! Requests of each kind, and numbers at the edges of their types.

use test_utils::raw::request::{self, Memory, RegHint};
use test_utils::raw::vcpu_request::{self, CpuidEntry};
use test_utils::raw::{Fields, Message};

/// Numbers at which types end.
pub(crate) const EXTREMES: [u64; 18] = [
    0,
    1,
    2,
    3,
    0x7f,
    0x80,
    0xfff,
    0x1000,
    0xffff,
    0x1_0000,
    i32::MAX as u64,
    i32::MAX as u64 + 1,
    u32::MAX as u64,
    u32::MAX as u64 + 1,
    i64::MAX as u64,
    i64::MAX as u64 + 1,
    u64::MAX - 0xfff,
    u64::MAX,
];

/// A request made of numbers: what they are where another is at its extremes, and how they become the request.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) numbers: Vec<u64>,
    pub(crate) make: fn(&[u64]) -> Message,
    /// The extremes that all of its numbers have room for.
    pub(crate) fitting: &'static [u64],
}

impl Shape {
    /// The request with each number at each of `extremes` in turn, and with all of them there.
    pub(crate) fn at_extremes_of(&self, extremes: &[u64]) -> Vec<Message> {
        let mut requests = Vec::new();
        for &extreme in extremes {
            for at in 0..self.numbers.len() {
                let mut numbers = self.numbers.clone();
                numbers[at] = extreme;
                requests.push((self.make)(&numbers));
            }
            requests.push((self.make)(&vec![extreme; self.numbers.len()]));
        }
        requests
    }
}

/// A message whose fields from 1 on are these numbers, whatever types they should have.
fn row(numbers: &[u64]) -> Message {
    (1..).zip(numbers).fold(Message::new(), |message, (field, number)| message.uint(field, *number))
}

fn create(id: u64, field: u32, constructor: &Message) -> Message {
    Message::new().message(1, &Message::new().uint(1, id).message(field, constructor))
}

/// All main requests that have numbers.
pub(crate) fn main_shapes() -> Vec<Shape> {
    let shape = |name, numbers: &[u64], make| Shape { name, numbers: numbers.to_vec(), make, fitting: &EXTREMES };
    vec![
        shape("create.io_event", &[50, 0, 0x70, 1, 5], |n| create(n[0], 2, &row(&n[1..]))),
        shape("create.memory", &[51, 0, 0x10_0000, 0x1000, 0, 0], |n| create(n[0], 3, &row(&n[1..]))),
        shape("create.irq_event", &[52, 5, 1], |n| create(n[0], 4, &row(&n[1..]))),
        shape("destroy", &[53], |n| Message::new().message(2, &row(n))),
        shape("check_extension", &[1], |n| Message::new().message(5, &row(n))),
        shape("reserve_range", &[1, 0x20_0000, 0x10, 0], |n| Message::new().message(10, &row(n))),
        shape("set_irq", &[5, 0], |n| Message::new().message(11, &row(n))),
        shape("set_irq_routing.irqchip", &[5, 2, 5], |n| {
            let route = Message::new().uint(1, n[0]).message(2, &row(&n[1..]));
            Message::new().message(12, &Message::new().message(1, &route))
        }),
        shape("set_irq_routing.msi", &[5, 0xfee0_0000, 0x30], |n| {
            let route = Message::new().uint(1, n[0]).message(3, &row(&n[1..]));
            Message::new().message(12, &Message::new().message(1, &route))
        }),
        shape("get_state", &[0], |n| Message::new().message(13, &row(n))),
        shape("set_state", &[0], |n| Message::new().message(14, &row(n).bytes(2, &[0; 16]))),
        shape("set_identity_map_addr", &[0xfffb_c000], |n| Message::new().message(15, &row(n))),
        shape("pause_vcpus", &[2, 5], |n| Message::new().message(16, &row(n))),
        shape("set_call_hint", &[0, 0x70, 1, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1], |n| {
            Message::new().message(19, &row(&n[..3]).message(4, &row(&n[3..])))
        }),
        shape("dirty_log", &[51], |n| Message::new().message(101, &row(n))),
    ]
}

/// A request of each kind, but for `start`.
pub(crate) fn main_requests() -> Vec<Message> {
    let hint = RegHint { matches: [Some(5), None, None, None], send_sregs: true, send_debugregs: true };
    vec![
        request::create_io_event(60, request::IOPORT, 0x70, 2, 5),
        request::create_memory(61, Memory::new(0x10_0000, 0x1000)),
        request::create_irq_event(62, 5, true),
        request::destroy(60),
        request::new_connection(),
        request::get_shutdown_eventfd(),
        request::check_extension(7),
        request::get_supported_cpuid(),
        request::get_emulated_cpuid(),
        request::get_msr_index_list(),
        request::get_net_config(),
        request::reserve(request::MMIO, 0x30_0000, 0x10),
        request::reserve_posted(request::MMIO, 0x30_0000, 0),
        request::reserve_coalesced(request::MMIO, 0x31_0000, 0x10),
        request::set_irq(5, false),
        request::set_irq_routing(&[request::irqchip_route(1, 2, 1), request::msi_route(30, 0xfee0_0000, 0x30)]),
        request::get_state(request::IOAPIC.0),
        request::set_state(request::CLOCK.0, &[0; 48]),
        request::set_identity_map_addr(0xfffb_c000),
        request::pause(2, 5),
        request::get_vcpus(),
        request::set_call_hint(request::IOPORT, 0x70, true, &[hint, hint]),
        request::dirty_log(61),
    ]
}

/// A request of each kind that a vCPU takes between a wait response and the resume, but for `shutdown`.
pub(crate) fn vcpu_requests() -> Vec<Message> {
    let entry = CpuidEntry { function: 7, index: Some(1), values: [1, 2, 3, 4] };
    vec![
        vcpu_request::wait(),
        vcpu_request::get_state(5),
        vcpu_request::set_state(5, &[0; 4]),
        vcpu_request::get_msrs(&[0x10, 0x1b]),
        vcpu_request::set_msrs(&[(0x10, 5)]),
        vcpu_request::set_cpuid(&[entry]),
        vcpu_request::get_hyperv_cpuid(),
        vcpu_request::enable_capability(123),
    ]
}

/// The same with numbers at their extremes.
pub(crate) fn vcpu_shapes() -> Vec<Shape> {
    let shape = |name, fitting, numbers: &[u64], make| Shape { name, numbers: numbers.to_vec(), make, fitting };
    // `EXTREMES` are in order: those of 31 bits come first, then those of 32. Enums have 31 and a sign.
    const UINT31: &[u64] = EXTREMES.split_at(11).0;
    const UINT32: &[u64] = EXTREMES.split_at(13).0;
    vec![
        shape("get_state", UINT31, &[0], |n| Message::new().message(3, &row(n))),
        shape("set_state", UINT31, &[0], |n| Message::new().message(4, &row(n).bytes(2, &[0; 5]))),
        shape("get_msrs", UINT32, &[0x10, 0x1b], |n| {
            Message::new().message(5, &Message::new().packed(1, n.iter().copied()))
        }),
        // An MSR that no processor has comes first: nothing is set, whatever the other number.
        shape("set_msrs", UINT32, &[0x4000_ffff, 0], |n| {
            Message::new().message(6, &Message::new().message(1, &row(n)))
        }),
        shape("set_cpuid", UINT32, &[0, 0, 0, 0, 0, 0, 0, 0], |n| {
            Message::new().message(7, &Message::new().message(1, &row(n)))
        }),
        shape("enable_capability", UINT32, &[5], |n| Message::new().message(10, &row(n))),
    ]
}

/// `request` in other clothes, of which some decode and some do not: its alternatives doubled, its parts of other wire
/// types, unknown fields before and behind, numbers longer than they need to be, lengths that lie.
pub(crate) fn in_other_clothes(request: &Message) -> Vec<Vec<u8>> {
    let field = Fields::parse(request.as_bytes()).numbers()[0];
    let body = Fields::parse(request.as_bytes()).bytes(field).to_vec();
    let original = request.as_bytes().to_vec();
    let mut all = vec![
        [original.clone(), original.clone()].concat(),
        [Message::new().message(9999, &Message::new()).as_bytes().to_vec(), original.clone()].concat(),
        request.clone().uint(9999, u64::MAX).fixed32(9998, 5).fixed64(9997, 5).as_bytes().to_vec(),
        Message::new().uint(field, 5).as_bytes().to_vec(),
        Message::new().fixed32(field, 5).as_bytes().to_vec(),
        Message::new().fixed64(field, 5).as_bytes().to_vec(),
        Message::new().bytes(field, &[0x0b]).as_bytes().to_vec(),
        Message::new().bytes(field, &[0x0f; 3]).as_bytes().to_vec(),
        Message::new().bytes(field, &[0; 3]).as_bytes().to_vec(),
        Message::new().bytes(field, &[0xff; 11]).as_bytes().to_vec(),
        // Inside: each field number as each wire type.
        Message::new().bytes(field, &[0x08; 200]).as_bytes().to_vec(),
        Message::new().bytes(field, &[0x0a; 200]).as_bytes().to_vec(),
        vec![0; 4096],
        vec![0xff; 4096],
        vec![0x0a; 4096],
    ];
    for inner in 1..=10 {
        let message = Message::new().bytes(field, Message::new().uint(inner, u64::MAX).as_bytes());
        all.push(message.as_bytes().to_vec());
        all.push(Message::new().bytes(field, Message::new().bytes(inner, &[1; 40]).as_bytes()).as_bytes().to_vec());
        all.push(Message::new().bytes(field, Message::new().fixed32(inner, 5).as_bytes()).as_bytes().to_vec());
        all.push(Message::new().bytes(field, Message::new().fixed64(inner, 5).as_bytes()).as_bytes().to_vec());
    }
    // A length in ten bytes, one that claims more than there is, one that claims nearly all memory.
    let tag = original[..original.len() - body.len()].split_last().map(|(_, tag)| tag.to_vec()).unwrap_or_default();
    for length in [
        &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00][..],
        &[0xff, 0xff, 0xff, 0xff, 0x07],
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
    ] {
        all.push([tag.clone(), length.to_vec(), body.clone()].concat());
    }
    // Packed numbers that claim ten million bytes.
    all.push(Message::new().bytes(field, &[0x0a, 0x80, 0xad, 0xe2, 0x04]).as_bytes().to_vec());
    // Messages within messages, without end.
    let deep = (0..300).fold(Message::new(), |inner, _| Message::new().message(1, &inner));
    all.push(Message::new().message(field, &deep).as_bytes().to_vec());
    all
}
