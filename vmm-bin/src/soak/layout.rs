//! Where everything lies in the soak's guests: in the 64 KiB that 16-bit code reaches, and in ports.

use plugin_sdk::{Access, AddressSpace, PAGE_SIZE};

/// Of every VM.
pub(super) const VCPUS: usize = 8;

/// RAM begins at 0 and has as many bytes: the table of vectors, their handlers and the stack, a page of code for each vCPU, and a
/// page of buffers.
pub(super) const RAM_SIZE: u64 = 0xa000;
/// A handler for each line, of [`HANDLER_SIZE`] bytes at most.
pub(super) const HANDLERS: u16 = 0x400;
pub(super) const HANDLER_SIZE: u16 = 0x20;
/// How often each handler has run: 32 bits a line.
pub(super) const HANDLED: u16 = 0x500;
/// Below it is vCPU 0's stack, the only one that takes interrupts.
pub(super) const STACK_TOP: u64 = 0x1000;
/// Nothing is here.
pub(super) const NOWHERE: u16 = 0xa800;
/// A page that is RAM at times. Each vCPU has [`SLOT`] bytes of it.
pub(super) const WINDOW: u64 = 0xb000;
pub(super) const SLOT: u64 = 4;
/// A page of memory whose writes are coalesced.
pub(super) const COALESCED_PAGE: u64 = 0xc000;
/// A page of memory whose writes the guest waits for.
pub(super) const SYNC_PAGE: u64 = 0xd000;
/// The page behind it, whose writes it does not wait for.
pub(super) const POSTED_PAGE: u64 = SYNC_PAGE + PAGE_SIZE;
/// Four bytes from here on are on both pages.
pub(super) const STRADDLE: u64 = POSTED_PAGE - 2;
/// Eventfds in memory, one a vCPU.
const BELLS: u64 = 0xf000;

/// Ports, 8 a vCPU from each of these on.
pub(super) const SYNC_PORTS: u64 = 0x100;
pub(super) const POSTED_PORTS: u64 = 0x200;
/// These are reserved at times.
pub(super) const FICKLE_PORTS: u64 = 0x300;
const BELL_PORTS: u64 = 0x400;
/// Where handlers tell how often they have run: 8 a line.
pub(super) const LINE_PORTS: u64 = 0x500;
/// Sums of what was read.
pub(super) const SUM_PORTS: u64 = 0x600;
pub(super) const STRING_PORTS: u64 = 0x700;
/// vCPU 0 can take interrupts.
pub(super) const READY_PORT: u64 = 0x800;
/// A vCPU has done all it had to do.
pub(super) const DONE_PORTS: u64 = 0x900;
/// Writes to these are coalesced.
pub(super) const COALESCED_PORTS: u64 = 0xa00;
/// Ports of each of these, for each owner.
pub(super) const PORTS: u64 = 8 * VCPUS as u64;

/// The line of an irqfd.
pub(super) const EVENT_LINE: u32 = 5;
/// The line that requests raise and lower.
pub(super) const PULSE_LINE: u32 = 6;
/// The vector of line 0.
pub(super) const FIRST_VECTOR: u8 = 0x20;

/// What is a vCPU's own in the range that begins at `first`.
pub(super) fn own(first: u64, vcpu: usize) -> u64 {
    first + 8 * vcpu as u64
}

/// Whose an access to what is coalesced is.
pub(super) fn whose_coalesced(access: &Access) -> Option<usize> {
    let first = match access.space {
        AddressSpace::Pio => COALESCED_PORTS,
        AddressSpace::Mmio => COALESCED_PAGE,
    };
    let vcpu = usize::try_from(access.address.checked_sub(first)? / 8).ok()?;
    (vcpu < VCPUS).then_some(vcpu)
}

/// A line's own in the range that begins at `first`.
pub(super) fn of_line(first: u64, line: u32) -> u64 {
    first + 8 * u64::from(line)
}

/// Where a vCPU's code begins.
pub(super) fn code(vcpu: usize) -> u64 {
    PAGE_SIZE * (1 + vcpu as u64)
}

/// 256 bytes that a vCPU writes by string instructions.
pub(super) fn source(vcpu: usize) -> u64 {
    0x9000 + 0x200 * vcpu as u64
}

/// 256 bytes that it reads to.
pub(super) fn destination(vcpu: usize) -> u64 {
    source(vcpu) + 0x100
}

pub(super) fn slot(vcpu: usize) -> u64 {
    SLOT * vcpu as u64
}

/// The port whose writes signal an eventfd.
pub(super) fn bell_port(vcpu: usize) -> u64 {
    own(BELL_PORTS, vcpu)
}

/// The address whose writes signal an eventfd.
pub(super) fn bell_address(vcpu: usize) -> u64 {
    own(BELLS, vcpu)
}
