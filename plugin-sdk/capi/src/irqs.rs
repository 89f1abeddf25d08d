//! Interrupt lines, their routes, and eventfds that raise them.

use plugin_sdk::{IrqEvent, Irqchip, Route, RouteTarget};
use std::os::fd::{AsRawFd, RawFd};

use crate::abi::{IrqRoute, route_kind};
use crate::connection::Connection;
use crate::errno::{Errno, Result};
use crate::export::export;
use crate::object::Object;
use crate::pointers::{Handle, In, Out, Owner};

fn route(route: &IrqRoute) -> Result<Route> {
    let [first, second, third, _] = route.words;
    let target = match route.kind {
        route_kind::IRQCHIP => RouteTarget::Pin { chip: Irqchip::try_from(first)?, pin: second },
        route_kind::MSI => RouteTarget::Msi { address: u64::from(second) << 32 | u64::from(first), data: third },
        _ => return Err(Errno::INVAL),
    };
    Ok(Route { gsi: route.irq_id, target })
}

export! {
    fn crosvm_set_irq(connection: Handle<Connection>, irq_id: u32, active: bool) -> Result<()> {
        Ok(connection.sdk()?.set_irq(irq_id, active)?)
    }

    fn crosvm_set_irq_routing(
        connection: Handle<Connection>,
        count: u32,
        routes: In<IrqRoute>,
    ) -> Result<()> {
        let routes = routes.read_all(count)?.iter().map(route).collect::<Result<Vec<_>>>()?;
        Ok(connection.sdk()?.set_irq_routing(&routes)?)
    }

    fn crosvm_create_irq_event(
        connection: Handle<Connection>,
        irq_id: u32,
        out: Out<*const Object<IrqEvent>>,
    ) -> Result<()> {
        let out = out.check()?;
        out.set_new(Object::new(connection.sdk()?.create_irq_event(irq_id)?));
        Ok(())
    }

    fn crosvm_destroy_irq_event(connection: Handle<Connection>, irq: Owner<Object<IrqEvent>>) -> Result<()> {
        let mut sdk = connection.sdk()?;
        if let Some(event) = irq.handle()?.get()?.take()? {
            sdk.destroy_irq_event(event)?;
        }
        irq.destroy()
    }

    fn crosvm_irq_event_get_fd(irq: Handle<Object<IrqEvent>>) -> Result<RawFd> {
        irq.get()?.with(|event| Ok(event.trigger().as_raw_fd()))
    }

    fn crosvm_irq_event_get_resample_fd(irq: Handle<Object<IrqEvent>>) -> Result<RawFd> {
        irq.get()?.with(|event| Ok(event.resample().as_raw_fd()))
    }
}
