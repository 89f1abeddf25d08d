//! All the devices, and which of them a port belongs to.

use std::error::Error;
use std::io::Stderr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use plugin_sdk::Connection;
use rustix::time::{ClockId, clock_gettime};

use crate::devices::cmos::{self, Cmos};
use crate::devices::debug_port::{self, DebugPort};
use crate::devices::pci::{self, Pci};
use crate::devices::port_b::{self, PortB};
use crate::devices::{FLOATING, reset};
use crate::serial::{self, SerialPort};

/// The devices of the PC. Its interrupt controllers and its timer are the VMM's.
pub(crate) struct Machine {
    connection: Connection,
    serial: Arc<SerialPort>,
    debug_port: DebugPort<Stderr>,
    cmos: Cmos,
    pci: Pci,
    port_b: PortB,
}

/// What is to be done after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    GoOn,
    Reset,
}

impl Machine {
    /// With `ram` bytes of RAM.
    pub(crate) fn new(connection: Connection, serial: Arc<SerialPort>, ram: u64) -> Self {
        Self {
            connection,
            serial,
            debug_port: DebugPort::new(std::io::stderr()),
            cmos: Cmos::new(ram),
            pci: Pci::default(),
            port_b: PortB::default(),
        }
    }

    /// A read of `data.len()` ports from `port` on, each a byte.
    pub(crate) fn read(&mut self, port: u16, data: &mut [u8]) -> Result<(), Box<dyn Error>> {
        for (port, byte) in ports_from(port).zip(data) {
            *byte = self.read_byte(port)?;
        }
        Ok(())
    }

    fn read_byte(&mut self, port: u16) -> Result<u8, Box<dyn Error>> {
        Ok(match port {
            debug_port::PORT => self.debug_port.read(),
            cmos::INDEX | cmos::DATA => self.cmos.read(port, wall_clock()?),
            port_b::PORT => self.port_b.read(&self.connection.pit()?, monotonic_clock()?),
            reset::PORT_A => reset::PORT_A_VALUE,
            _ if serial::PORTS.contains(&port) => self.serial.read(port),
            _ if pci::ADDRESS.contains(&port) || pci::DATA.contains(&port) => self.pci.read(port),
            _ => FLOATING,
        })
    }

    /// A write to `data.len()` ports from `port` on, each a byte; to PCI's address it is one of four.
    pub(crate) fn write(&mut self, port: u16, data: &[u8]) -> Result<Outcome, Box<dyn Error>> {
        if pci::ADDRESS.contains(&port) {
            self.pci.write(port, data);
            // What is left is the reset's port, by a single byte.
            if data.len() > 1 {
                return Ok(Outcome::GoOn);
            }
        }
        for (port, byte) in ports_from(port).zip(data) {
            if reset::resets(port, *byte) {
                return Ok(Outcome::Reset);
            }
            match port {
                debug_port::PORT => self.debug_port.write(*byte)?,
                cmos::INDEX | cmos::DATA => self.cmos.write(port, *byte),
                port_b::PORT => self.port_b.write(*byte),
                _ if serial::PORTS.contains(&port) => self.serial.write(port, *byte)?,
                _ => {}
            }
        }
        Ok(Outcome::GoOn)
    }
}

/// `port` and those behind it; the last is followed by the first.
fn ports_from(port: u16) -> impl Iterator<Item = u16> {
    (0..=u16::MAX).map(move |offset| port.wrapping_add(offset))
}

/// The time since 1970.
fn wall_clock() -> Result<Duration, Box<dyn Error>> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?)
}

/// The host's clock by which the kernel's timer counts.
fn monotonic_clock() -> Result<Duration, Box<dyn Error>> {
    Ok(Duration::try_from(clock_gettime(ClockId::Monotonic))?)
}
