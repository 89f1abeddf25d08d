//! The main requests, with the numbers of the protocol's table of messages.

use super::Message;

/// Ports.
pub const IOPORT: u64 = 0;
/// Memory addresses.
pub const MMIO: u64 = 1;

/// `MainRequest.StateSet`, with the size of the kernel's structure.
pub const PIC0: (u64, usize) = (0, 16);
/// The second PIC.
pub const PIC1: (u64, usize) = (1, 16);
/// `kvm_ioapic_state`.
pub const IOAPIC: (u64, usize) = (2, 216);
/// `kvm_pit_state2`.
pub const PIT: (u64, usize) = (3, 112);
/// `kvm_clock_data`.
pub const CLOCK: (u64, usize) = (4, 48);

/// The number of the answer's field for a request's: one more, but the same from 101 on.
pub fn answer_field(request: u32) -> u32 {
    if request < 101 { request + 1 } else { request }
}

fn request(field: u32, body: Message) -> Message {
    Message::new().message(field, &body)
}

/// `create`, with a constructor of one's own.
pub fn create(id: u32, field: u32, constructor: Message) -> Message {
    request(1, Message::new().uint(1, id.into()).message(field, &constructor))
}

/// `create.io_event`.
pub fn create_io_event(id: u32, space: u64, address: u64, length: u32, datamatch: u64) -> Message {
    let body = Message::new().uint(1, space).uint(2, address).uint(3, length.into()).uint(4, datamatch);
    create(id, 2, body)
}

/// The fields of `create.memory`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Into the memfd.
    pub offset: u64,
    /// In the guest.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// Guest writes exit.
    pub read_only: bool,
    /// Guest writes are logged.
    pub dirty_log: bool,
}

impl Memory {
    /// The first `length` bytes of a memfd, at `start`.
    pub fn new(start: u64, length: u64) -> Self {
        Self { start, length, ..Self::default() }
    }
}

/// `create.memory`; the memfd goes with it.
pub fn create_memory(id: u32, memory: Memory) -> Message {
    let body = Message::new()
        .uint(1, memory.offset)
        .uint(2, memory.start)
        .uint(3, memory.length)
        .uint(4, memory.read_only.into())
        .uint(5, memory.dirty_log.into());
    create(id, 3, body)
}

/// `create.irq_event`.
pub fn create_irq_event(id: u32, irq: u32, resample: bool) -> Message {
    create(id, 4, Message::new().uint(1, irq.into()).uint(2, resample.into()))
}

/// `destroy`.
pub fn destroy(id: u32) -> Message {
    request(2, Message::new().uint(1, id.into()))
}

/// `new_connection`.
pub fn new_connection() -> Message {
    request(3, Message::new())
}

/// `get_shutdown_eventfd`.
pub fn get_shutdown_eventfd() -> Message {
    request(4, Message::new())
}

/// `check_extension`.
pub fn check_extension(extension: u32) -> Message {
    request(5, Message::new().uint(1, extension.into()))
}

/// `get_supported_cpuid`.
pub fn get_supported_cpuid() -> Message {
    request(6, Message::new())
}

/// `get_emulated_cpuid`.
pub fn get_emulated_cpuid() -> Message {
    request(7, Message::new())
}

/// `get_msr_index_list`.
pub fn get_msr_index_list() -> Message {
    request(8, Message::new())
}

/// `get_net_config`.
pub fn get_net_config() -> Message {
    request(9, Message::new())
}

/// `reserve_range`, whose accesses the vCPU waits for.
pub fn reserve(space: u64, start: u64, length: u64) -> Message {
    request(10, Message::new().uint(1, space).uint(2, start).uint(3, length))
}

/// `reserve_range` with `async_write`.
pub fn reserve_posted(space: u64, start: u64, length: u64) -> Message {
    request(10, Message::new().uint(1, space).uint(2, start).uint(3, length).uint(4, 1))
}

/// `reserve_range` with `async_write`, whose writes may be coalesced (beyond version 0).
pub fn reserve_coalesced(space: u64, start: u64, length: u64) -> Message {
    request(10, Message::new().uint(1, space).uint(2, start).uint(3, length).uint(4, 1).uint(200, 1))
}

/// `set_irq`.
pub fn set_irq(irq: u32, active: bool) -> Message {
    request(11, Message::new().uint(1, irq.into()).uint(2, active.into()))
}

/// `set_irq_routing`, with routes that [`irqchip_route`] and [`msi_route`] make.
pub fn set_irq_routing(routes: &[Message]) -> Message {
    request(12, routes.iter().fold(Message::new(), |body, route| body.message(1, route)))
}

/// A route to a pin of an irqchip: 0 and 1 the PICs, 2 the IOAPIC.
pub fn irqchip_route(irq: u32, irqchip: u32, pin: u32) -> Message {
    let chip = Message::new().uint(1, irqchip.into()).uint(2, pin.into());
    Message::new().uint(1, irq.into()).message(2, &chip)
}

/// A route to a message-signalled interrupt.
pub fn msi_route(irq: u32, address: u64, data: u32) -> Message {
    Message::new().uint(1, irq.into()).message(3, &Message::new().uint(1, address).uint(2, data.into()))
}

/// `get_state`.
pub fn get_state(set: u64) -> Message {
    request(13, Message::new().uint(1, set))
}

/// `set_state`.
pub fn set_state(set: u64, state: &[u8]) -> Message {
    request(14, Message::new().uint(1, set).bytes(2, state))
}

/// `set_identity_map_addr`.
pub fn set_identity_map_addr(address: u32) -> Message {
    request(15, Message::new().uint(1, address.into()))
}

/// `pause_vcpus`.
pub fn pause(mask: u64, user: u64) -> Message {
    request(16, Message::new().uint(1, mask).uint(2, user))
}

/// `get_vcpus`.
pub fn get_vcpus() -> Message {
    request(17, Message::new())
}

/// `start`.
pub fn start() -> Message {
    request(18, Message::new())
}

/// `set_call_hint`, with hints that [`RegHint::message`] makes.
pub fn set_call_hint(space: u64, address: u64, on_write: bool, hints: &[RegHint]) -> Message {
    let body = Message::new().uint(1, space).uint(2, address).uint(3, on_write.into());
    request(19, hints.iter().fold(body, |body, hint| body.message(4, &hint.message())))
}

/// One of a call hint's entries.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegHint {
    /// RAX, RBX, RCX and RDX must be these.
    pub matches: [Option<u64>; 4],
    /// Attach the segment and control registers.
    pub send_sregs: bool,
    /// Attach the debug registers.
    pub send_debugregs: bool,
}

impl RegHint {
    /// The entry as a message.
    pub fn message(&self) -> Message {
        let mut body = Message::new();
        for (field, wanted) in (1..).zip(self.matches) {
            if let Some(wanted) = wanted {
                body = body.uint(field, 1).uint(field + 4, wanted);
            }
        }
        body.uint(9, self.send_sregs.into()).uint(10, self.send_debugregs.into())
    }
}

/// `dirty_log`.
pub fn dirty_log(id: u32) -> Message {
    request(101, Message::new().uint(1, id.into()))
}

/// The feature of [`negotiate`] that stands for the width of an access's items.
pub const ITEM_WIDTHS: u64 = 2;

/// The feature of [`negotiate`] that stands for rings.
pub const RINGS: u64 = 1;

/// `negotiate`, beyond version 0.
pub fn negotiate(version: u32, features: u64) -> Message {
    request(200, Message::new().uint(1, version.into()).uint(2, features))
}

/// `get_vcpu_rings`, beyond version 0.
pub fn get_vcpu_rings(first: u32) -> Message {
    request(201, Message::new().uint(1, first.into()))
}
