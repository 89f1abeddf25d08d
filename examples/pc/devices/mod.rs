//! The devices that a PC's firmware asks for, by their ports. None looks at a clock or does I/O of its own: time comes with
//! the access, and what a device prints goes to a writer that it was given.

pub(crate) mod ata;
pub(crate) mod cmos;
pub(crate) mod debug_port;
pub(crate) mod fw_cfg;
pub(crate) mod pci;
pub(crate) mod port_b;
pub(crate) mod reset;

/// What a port without a device reads as: nothing pulls the lines of the bus down.
pub(crate) const FLOATING: u8 = 0xff;
