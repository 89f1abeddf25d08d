//! Interrupt lines, and where they lead.

use plugin_proto::messages::main_request::set_irq_routing::Route as WireRoute;
use plugin_proto::messages::main_request::set_irq_routing::route::{Irqchip as WirePin, Msi, Route as WireTarget};
use plugin_proto::messages::main_request::{SetIrq, SetIrqRouting};

use crate::connection::ask;
use crate::{Connection, Error};

/// One of the two 8259 interrupt controllers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pic {
    /// The one that the vCPU sees.
    Primary,
    /// The one behind it.
    Secondary,
}

/// An interrupt controller whose pins a line may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Irqchip {
    /// An 8259, 8 pins.
    Pic(Pic),
    /// The I/O APIC, 24 pins.
    Ioapic,
}

impl Irqchip {
    /// The kernel's number of it: `KVM_IRQCHIP_PIC_MASTER` and so on.
    fn number(self) -> u32 {
        match self {
            Self::Pic(Pic::Primary) => 0,
            Self::Pic(Pic::Secondary) => 1,
            Self::Ioapic => 2,
        }
    }
}

/// From the kernel's number.
impl TryFrom<u32> for Irqchip {
    type Error = Error;

    fn try_from(number: u32) -> Result<Self, Error> {
        match number {
            0 => Ok(Self::Pic(Pic::Primary)),
            1 => Ok(Self::Pic(Pic::Secondary)),
            2 => Ok(Self::Ioapic),
            _ => Err(Error::UnknownNumber { what: "interrupt controller", number }),
        }
    }
}

/// Where an interrupt line leads. A line may have several routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The line: its global system interrupt.
    pub gsi: u32,
    /// Where to.
    pub target: RouteTarget,
}

/// What a raised line does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// It raises a pin.
    Pin {
        /// Of this controller.
        chip: Irqchip,
        /// The pin's number, from 0.
        pin: u32,
    },
    /// It sends a message-signalled interrupt: address and data as a PCI device would write them.
    Msi {
        /// The address; on x86 it names the local APICs.
        address: u64,
        /// The data; on x86 the vector and how it is delivered.
        data: u32,
    },
}

impl Connection {
    /// Raises or lowers the line `gsi`.
    ///
    /// # Errors
    /// [`Error::Refused`], as the kernel says.
    pub fn set_irq(&mut self, gsi: u32, active: bool) -> Result<(), Error> {
        let request = SetIrq { irq_id: gsi, active, ..Default::default() };
        ask!(self, "set_irq", SetIrq(request)).map(drop)
    }

    /// Replaces all routes of all lines. At first the lines 0 to 15 lead to both 8259s and the I/O APIC, and those up to 23 to
    /// the I/O APIC alone.
    ///
    /// ```no_run
    /// # fn route(connection: &mut plugin_sdk::Connection) -> Result<(), plugin_sdk::Error> {
    /// use plugin_sdk::{Irqchip, Route, RouteTarget};
    ///
    /// connection.set_irq_routing(&[
    ///     Route { gsi: 4, target: RouteTarget::Pin { chip: Irqchip::Ioapic, pin: 4 } },
    ///     Route { gsi: 24, target: RouteTarget::Msi { address: 0xfee0_0000, data: 0x41 } },
    /// ])
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`], as the kernel says: `EINVAL` for a pin that the controller does not have. Nothing has changed then.
    pub fn set_irq_routing(&mut self, routes: &[Route]) -> Result<(), Error> {
        let routes = routes.iter().copied().map(Route::to_wire).collect();
        let request = SetIrqRouting { routes, ..Default::default() };
        ask!(self, "set_irq_routing", SetIrqRouting(request)).map(drop)
    }
}

impl Route {
    fn to_wire(self) -> WireRoute {
        let target = match self.target {
            RouteTarget::Pin { chip, pin } => {
                WireTarget::Irqchip(WirePin { irqchip: chip.number(), pin, ..Default::default() })
            }
            RouteTarget::Msi { address, data } => WireTarget::Msi(Msi { address, data, ..Default::default() }),
        };
        WireRoute { irq_id: self.gsi, route: Some(target), ..Default::default() }
    }
}
