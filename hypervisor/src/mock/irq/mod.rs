//! The interrupt controllers and timers of a PC, and the lines and messages between them.

pub(super) mod apic_bus;
pub(super) mod apic_message;
pub(super) mod gsi;
pub(super) mod ioapic;
pub(super) mod irqchip;
pub(super) mod lapic;
pub(super) mod lapic_mmio;
pub(super) mod lapic_timer;
pub(super) mod pic;
pub(super) mod pit;
pub(super) mod routing;
pub(super) mod time_source;
pub(super) mod timers;
