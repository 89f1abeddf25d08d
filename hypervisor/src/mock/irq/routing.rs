//! Where GSIs lead to.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::collections::BTreeMap;

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE};

use super::ioapic;
use crate::mock::refused;
use crate::{Gsi, Result, Route};

/// `KVM_MAX_IRQ_ROUTES`: of routes, and of GSIs.
pub(in crate::mock) const MAX_ROUTES: u32 = 4096;
/// Of each PIC.
pub(in crate::mock) const PIC_PINS: u32 = 8;

/// A routing table.
pub(in crate::mock) struct RoutingTable(Vec<Route>);

impl Default for RoutingTable {
    /// Those of a PC: all lines lead to the IOAPIC, the first 16 to the PICs too.
    fn default() -> Self {
        let route = |chip, gsi, pin| Route::Irqchip { gsi: Gsi(gsi), chip, pin };
        let ioapic = (0..ioapic::PINS).map(move |gsi| route(KVM_IRQCHIP_IOAPIC, gsi, gsi));
        let primary = (0..PIC_PINS).map(move |gsi| route(KVM_IRQCHIP_PIC_MASTER, gsi, gsi));
        let secondary = (0..PIC_PINS).map(move |pin| route(KVM_IRQCHIP_PIC_SLAVE, PIC_PINS | pin, pin));
        Self(ioapic.chain(primary).chain(secondary).collect())
    }
}

impl RoutingTable {
    /// A table, if it is possible.
    pub(in crate::mock) fn new(routes: &[Route]) -> Result<Self> {
        let mut targets = BTreeMap::<Gsi, Vec<u32>>::new();
        let valid = routes.len() <= MAX_ROUTES as usize
            && routes.iter().all(|route| {
                let (gsi, chip, pins) = match *route {
                    Route::Msi { gsi, .. } => (gsi, None, None),
                    Route::Irqchip { gsi, chip, pin } => (gsi, Some(chip), Some(pin)),
                };
                let pin_exists = match (chip, pins) {
                    (Some(KVM_IRQCHIP_PIC_MASTER | KVM_IRQCHIP_PIC_SLAVE), Some(pin)) => pin < PIC_PINS,
                    (Some(KVM_IRQCHIP_IOAPIC), Some(pin)) => pin < ioapic::PINS,
                    (None, _) => true,
                    _ => false,
                };
                // A GSI leads to one message, or to a pin of each chip.
                let others = targets.entry(gsi).or_default();
                let target = chip.unwrap_or(u32::MAX);
                let alone = others.iter().all(|&other| other != target && other != u32::MAX && target != u32::MAX);
                others.push(target);
                gsi.0 < MAX_ROUTES && pin_exists && alone
            });
        if valid { Ok(Self(routes.to_vec())) } else { Err(refused("KVM_SET_GSI_ROUTING", libc::EINVAL)) }
    }

    /// Where a GSI leads to.
    pub(in crate::mock) fn of(&self, gsi: Gsi) -> impl Iterator<Item = Route> + '_ {
        self.0.iter().copied().filter(move |route| match *route {
            Route::Irqchip { gsi: from, .. } | Route::Msi { gsi: from, .. } => from == gsi,
        })
    }

    /// The GSI that leads to a pin of a chip.
    pub(in crate::mock) fn gsi_of(&self, chip: u32, pin: u32) -> Option<Gsi> {
        self.0.iter().rev().find_map(|route| match *route {
            Route::Irqchip { gsi, chip: to, pin: at } if (to, at) == (chip, pin) => Some(gsi),
            _ => None,
        })
    }
}
