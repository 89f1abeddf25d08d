//! Requests that are done, though the plugin has probably meant something else: what to warn of.
//!
//! None of them is refused, since plugins of protocol version 0 may rely on that.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use hypervisor::{AddressSpace, Route};
use plugin_proto::messages::main_request::create::{Constructor, IoEvent, IrqEvent, Memory};
use plugin_proto::messages::main_request::{ReserveRange, SetIrq};
use vmm_core::AddressMap;

use crate::errno::Errno;
use crate::objects::Objects;
use crate::refusal::Refusal;
use crate::wire::space_from_wire;

/// The GSIs that the kernel routes by itself: the pins of its IOAPIC, the first 16 of them to the PICs too.
pub(crate) const DEFAULT_ROUTES: u32 = 24;

/// The GSIs that KVM can route (`KVM_MAX_IRQ_ROUTES`, Linux 4.6 and later).
const GSIS: u32 = 4096;

/// The last I/O port.
const LAST_PORT: u64 = 0xffff;

/// About a reservation that is to be made, or, with length 0, released.
pub(crate) fn reserve(space: AddressSpace, range: &ReserveRange, objects: &Objects) -> Vec<String> {
    let mut warnings = Vec::new();
    let Some(length_less_one) = range.length.checked_sub(1) else {
        if range.async_write || range.coalesce {
            warnings.push(format!("length 0 releases the range at {:#x}: no writes of it are posted", range.start));
        }
        return warnings;
    };
    let (first, last) = (range.start, range.start.saturating_add(length_less_one));
    match space {
        AddressSpace::Pio if last > LAST_PORT => {
            warnings.push(format!("reserved ports {first:#x}-{last:#x} pass the last port, {LAST_PORT:#x}"));
        }
        AddressSpace::Pio => {}
        AddressSpace::Mmio => warnings.extend(objects.ram_at(first, last).map(|ram| over_ram((first, last), ram))),
    }
    warnings
}

/// About an object that is to be made.
pub(crate) fn create(constructor: Option<&Constructor>, objects: &Objects, map: &AddressMap) -> Vec<String> {
    match constructor {
        Some(Constructor::Memory(memory)) => memory_warning(memory, map).into_iter().collect(),
        Some(Constructor::IoEvent(event)) => io_event(event),
        Some(Constructor::IrqEvent(event)) => irq_event(event, objects),
        _ => Vec::new(),
    }
}

/// About the level of a line, which is or is not `routed`.
pub(crate) fn set_irq(irq: &SetIrq, routed: bool) -> Vec<String> {
    let unheard = irq.active && !routed;
    unheard
        .then(|| format!("GSI {} was raised, and has no route: no interrupt comes of it", irq.irq_id))
        .into_iter()
        .collect()
}

/// Why routes are refused, with the GSI that is out of range, if one is.
pub(crate) fn routing_refused(routes: &[Route], error: &hypervisor::Error) -> Refusal {
    let gsis = routes.iter().map(|route| match route {
        Route::Irqchip { gsi, .. } | Route::Msi { gsi, .. } => gsi.0,
    });
    match gsis.max().filter(|gsi| *gsi >= GSIS) {
        Some(gsi) => Refusal::new(Errno::from(error), format!("{error}: GSI {gsi} is out of range, there are {GSIS}")),
        None => Refusal::from(error),
    }
}

fn memory_warning(memory: &Memory, map: &AddressMap) -> Option<String> {
    // What is read-only may be reserved too: the guest's writes exit.
    let last = memory.start.checked_add(memory.length.checked_sub(1)?).filter(|_| !memory.read_only)?;
    let reserved = map.overlapping(AddressSpace::Mmio, memory.start, last)?;
    Some(over_ram(reserved, (memory.start, last)))
}

fn over_ram((first, last): (u64, u64), ram: (u64, u64)) -> String {
    format!(
        "reserved addresses {first:#x}-{last:#x} are RAM in part, {:#x}-{:#x}: the guest's accesses to RAM do not exit",
        ram.0, ram.1
    )
}

fn io_event(event: &IoEvent) -> Vec<String> {
    let mut warnings = Vec::new();
    if event.length == 0 && event.datamatch != 0 {
        warnings.push(format!(
            "the I/O event at {:#x} has length 0: any write signals it, whatever its value",
            event.address
        ));
    }
    if event.address > LAST_PORT && space_from_wire(event.space).is_ok_and(|space| space == AddressSpace::Pio) {
        warnings.push(format!("the I/O event's port {:#x} passes the last port, {LAST_PORT:#x}", event.address));
    }
    warnings
}

fn irq_event(event: &IrqEvent, objects: &Objects) -> Vec<String> {
    let mut warnings = Vec::new();
    if event.irq_id >= GSIS {
        warnings.push(format!("the interrupt event's GSI {} is out of range: there are {GSIS}", event.irq_id));
    }
    if objects.irq_events_of(event.irq_id) > 0 {
        warnings.push(format!(
            "GSI {} has an interrupt event already: the guest's acknowledgement is reported to all of them",
            event.irq_id
        ));
    }
    warnings
}
