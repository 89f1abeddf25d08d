//! All the devices, and which of them a port belongs to.

use std::error::Error;
use std::fs::File;
use std::io::Stderr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::devices::ata::{self, Disk};
use crate::devices::cmos::{self, Cmos};
use crate::devices::debug_port::{self, DebugPort};
use crate::devices::fw_cfg::{self, FwCfg};
use crate::devices::pci::{self, Pci};
use crate::devices::port_b::{self, PortB};
use crate::devices::power::{self, Power};
use crate::devices::{FLOATING, reset};
use crate::serial::{self, SerialPort};

/// The devices of the PC. Its interrupt controllers and its timer are the VMM's.
pub(crate) struct Machine {
    clock: Clock,
    serial: Arc<SerialPort>,
    debug_port: DebugPort<Stderr>,
    fw_cfg: FwCfg,
    disk: Option<Disk<File>>,
    cmos: Cmos,
    pci: Pci,
    port_b: PortB,
    power: Power,
}

/// What is to be done after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Continue,
    Reset,
    PowerOff,
}

impl Machine {
    /// With `ram` bytes of RAM.
    pub(crate) fn new(clock: Clock, serial: Arc<SerialPort>, ram: u64, disk: Option<Disk<File>>) -> Self {
        // Firmware shows on the serial port what it would on a screen, and takes keys from there.
        let console = fw_cfg::File { name: "etc/sercon-port", content: serial::PORTS.start().to_le_bytes().to_vec() };
        Self {
            clock,
            serial,
            debug_port: DebugPort::new(std::io::stderr()),
            fw_cfg: FwCfg::new(vec![console]),
            disk,
            cmos: Cmos::new(ram),
            pci: Pci::default(),
            port_b: PortB::default(),
            power: Power::default(),
        }
    }

    /// [`Clock::vms`].
    pub(crate) fn vms_clock(&mut self) -> Result<Option<Duration>, plugin_sdk::Error> {
        self.clock.vms()
    }

    /// A read of items of `width` bytes each, from as many ports as an item has bytes, the first of them `port`; the ports of
    /// streams give all bytes.
    pub(crate) fn read(&mut self, port: u16, width: usize, data: &mut [u8]) -> Result<(), Box<dyn Error>> {
        match (port, &mut self.disk) {
            (fw_cfg::DATA, _) => self.fw_cfg.read(data),
            (ata::DATA, Some(disk)) => disk.read_data(data),
            _ => return data.chunks_mut(width).try_for_each(|item| self.read_bytes(port, item)),
        }
        Ok(())
    }

    fn read_bytes(&mut self, port: u16, data: &mut [u8]) -> Result<(), Box<dyn Error>> {
        for (port, byte) in ports_from(port).zip(data) {
            *byte = self.read_byte(port)?;
        }
        Ok(())
    }

    fn read_byte(&mut self, port: u16) -> Result<u8, Box<dyn Error>> {
        Ok(match port {
            debug_port::PORT => self.debug_port.read(),
            cmos::INDEX | cmos::DATA => self.cmos.read(port, self.clock.time_of_day()?),
            port_b::PORT => {
                let (pit, now) = self.clock.pit()?;
                self.port_b.read(&pit, now)
            }
            reset::PORT_A => reset::PORT_A_VALUE,
            _ if power::PORTS.contains(&port) => self.power.read(port),
            _ if is_disk(port) => self.disk.as_ref().map_or(FLOATING, |disk| disk.read(port)),
            _ if serial::PORTS.contains(&port) => self.serial.read(port)?,
            _ if pci::ADDRESS.contains(&port) || pci::DATA.contains(&port) => self.pci.read(port),
            _ => FLOATING,
        })
    }

    /// A write of items of `width` bytes each, to as many ports as an item has bytes, the first of them `port`; the disk's
    /// stream takes all bytes.
    pub(crate) fn write(&mut self, port: u16, width: usize, data: &[u8]) -> Result<Outcome, Box<dyn Error>> {
        if let (ata::DATA, Some(disk)) = (port, &mut self.disk) {
            disk.write_data(data);
            return Ok(Outcome::Continue);
        }
        for item in data.chunks(width) {
            match self.write_item(port, item)? {
                Outcome::Continue => {}
                end => return Ok(end),
            }
        }
        Ok(Outcome::Continue)
    }

    /// Each byte of the item goes to a port of its own, but to the selector of [`FwCfg`] and to PCI's address it is one number.
    fn write_item(&mut self, port: u16, item: &[u8]) -> Result<Outcome, Box<dyn Error>> {
        match (port, item) {
            (fw_cfg::SELECTOR, &[low, high]) => self.fw_cfg.select(u16::from_le_bytes([low, high])),
            // A single byte is for the reset's port, which lies in here.
            _ if pci::ADDRESS.contains(&port) && item.len() > 1 => self.pci.write(port, item),
            _ => return self.write_bytes(port, item),
        }
        Ok(Outcome::Continue)
    }

    fn write_bytes(&mut self, port: u16, data: &[u8]) -> Result<Outcome, Box<dyn Error>> {
        for (port, byte) in ports_from(port).zip(data) {
            if reset::resets(port, *byte) {
                return Ok(Outcome::Reset);
            }
            if power::PORTS.contains(&port) && self.power.write(port, *byte) {
                return Ok(Outcome::PowerOff);
            }
            match port {
                debug_port::PORT => self.debug_port.write(*byte)?,
                cmos::INDEX | cmos::DATA => self.cmos.write(port, *byte),
                port_b::PORT => self.port_b.write(*byte),
                _ if serial::PORTS.contains(&port) => self.serial.write(port, *byte)?,
                _ if is_disk(port) => {
                    if let Some(disk) = &mut self.disk {
                        disk.write(port, *byte);
                    }
                }
                _ => {}
            }
        }
        Ok(Outcome::Continue)
    }
}

fn is_disk(port: u16) -> bool {
    ata::COMMAND.contains(&port) || port == ata::CONTROL
}

/// `port` and those behind it; the last is followed by the first.
fn ports_from(port: u16) -> impl Iterator<Item = u16> {
    (0..=u16::MAX).map(move |offset| port.wrapping_add(offset))
}
