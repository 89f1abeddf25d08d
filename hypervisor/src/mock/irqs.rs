//! The mock's interrupt lines, and the two PICs and the IOAPIC as far as lines change them.
//!
//! A line's level is that of `set_irq` or of its irqfds, whichever is high. A change goes to the pins it is routed to:
//! each PIC latches edges and follows levels as an 8259 does; the IOAPIC's `irr` follows the line. No interrupt is
//! delivered to a vCPU; a script acknowledges one by [`Step::Acknowledge`](super::Step::Acknowledge).
//! An irqfd's trigger is looked at when a chip is asked for and before each step of a script.
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
use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state, kvm_pic_state,
};
use parking_lot::Mutex;

use super::{eventfd, refused, reset};
use crate::{AddressSpace, EventFd, Gsi, Pic, Result, Route};

/// `KVM_MAX_IRQ_ROUTES`: of routes, and of GSIs.
pub(super) const MAX_ROUTES: u32 = 4096;
const PIC_PINS: u32 = 8;
const IOAPIC_PINS: u32 = 24;
/// Where the first PIC has the second.
const CASCADE_PIN: u32 = 2;

#[derive(Default)]
pub(super) struct SoftIrqs(Mutex<State>);

struct State {
    routes: Vec<Route>,
    lines: BTreeMap<Gsi, Line>,
    irqfds: Vec<Irqfd>,
    pics: [kvm_pic_state; 2],
    ioapic: kvm_ioapic_state,
}

/// Who holds a line high.
#[derive(Clone, Copy, Default)]
struct Line {
    user: bool,
    irqfd: bool,
}

struct Irqfd {
    gsi: Gsi,
    trigger: Arc<EventFd>,
    resample: Arc<EventFd>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            routes: default_routes().collect(),
            lines: BTreeMap::new(),
            irqfds: Vec::new(),
            pics: reset::pics(),
            ioapic: reset::ioapic(),
        }
    }
}

/// The routes of a PC: all lines lead to the IOAPIC, the first 16 to the PICs too.
fn default_routes() -> impl Iterator<Item = Route> {
    let route = |chip, gsi, pin| Route::Irqchip { gsi: Gsi(gsi), chip, pin };
    let ioapic = (0..IOAPIC_PINS).map(move |gsi| route(KVM_IRQCHIP_IOAPIC, gsi, gsi));
    let primary = (0..PIC_PINS).map(move |gsi| route(KVM_IRQCHIP_PIC_MASTER, gsi, gsi));
    let secondary = (0..PIC_PINS).map(move |pin| route(KVM_IRQCHIP_PIC_SLAVE, PIC_PINS | pin, pin));
    ioapic.chain(primary).chain(secondary)
}

impl SoftIrqs {
    pub(super) fn register_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>, resample: &Arc<EventFd>) -> Result<()> {
        let mut state = self.0.lock();
        if state.irqfds.iter().any(|irqfd| Arc::ptr_eq(&irqfd.trigger, trigger)) {
            return Err(refused("KVM_IRQFD", libc::EBUSY));
        }
        state.irqfds.push(Irqfd { gsi, trigger: Arc::clone(trigger), resample: Arc::clone(resample) });
        Ok(())
    }

    pub(super) fn unregister_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>) {
        let mut state = self.0.lock();
        state.irqfds.retain(|irqfd| irqfd.gsi != gsi || !Arc::ptr_eq(&irqfd.trigger, trigger));
        if state.irqfds.iter().all(|irqfd| irqfd.gsi != gsi) {
            state.change(gsi, |line| line.irqfd = false);
        }
    }

    pub(super) fn set_irq(&self, gsi: Gsi, level: bool) {
        let mut state = self.0.lock();
        state.poll();
        state.change(gsi, |line| line.user = level);
    }

    pub(super) fn set_routing(&self, routes: &[Route]) -> Result<()> {
        let mut targets = BTreeMap::<Gsi, Vec<u32>>::new();
        let valid = routes.len() <= MAX_ROUTES as usize
            && routes.iter().all(|route| {
                let (gsi, chip, pins) = match *route {
                    Route::Msi { gsi, .. } => (gsi, None, None),
                    Route::Irqchip { gsi, chip, pin } => (gsi, Some(chip), Some(pin)),
                };
                let pin_exists = match (chip, pins) {
                    (Some(KVM_IRQCHIP_PIC_MASTER | KVM_IRQCHIP_PIC_SLAVE), Some(pin)) => pin < PIC_PINS,
                    (Some(KVM_IRQCHIP_IOAPIC), Some(pin)) => pin < IOAPIC_PINS,
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
        if !valid {
            return Err(refused("KVM_SET_GSI_ROUTING", libc::EINVAL));
        }
        self.0.lock().routes = routes.to_vec();
        Ok(())
    }

    /// The guest has acknowledged the interrupt of `gsi`: its irqfds let go of the line and tell their owners.
    pub(super) fn acknowledge(&self, gsi: Gsi) {
        let mut state = self.0.lock();
        state.poll();
        state.change(gsi, |line| line.irqfd = false);
        let resample: Vec<_> =
            state.irqfds.iter().filter(|irqfd| irqfd.gsi == gsi).map(|irqfd| Arc::clone(&irqfd.resample)).collect();
        drop(state);
        for event in resample {
            eventfd::signal(&event);
        }
    }

    /// Takes the guest's write to a chip. Of all there are, only the end of an interrupt at the first PIC has a model yet:
    /// OCW2 with a specific end of interrupt.
    pub(super) fn takes_write(&self, space: AddressSpace, address: u64, data: &[u8]) -> bool {
        const SPECIFIC_END: u8 = 0x60;
        match (space, address, data) {
            (AddressSpace::Pio, 0x20, &[command]) if command & 0xf8 == SPECIFIC_END => {
                self.acknowledge(Gsi(u32::from(command & 7)));
                true
            }
            _ => false,
        }
    }

    /// Raises the lines whose triggers were written.
    pub(super) fn poll(&self) {
        self.0.lock().poll();
    }

    pub(super) fn pic(&self, which: Pic) -> kvm_pic_state {
        let mut state = self.0.lock();
        state.poll();
        let [primary, secondary] = state.pics;
        match which {
            Pic::Primary => primary,
            Pic::Secondary => secondary,
        }
    }

    pub(super) fn set_pic(&self, which: Pic, new: &kvm_pic_state) {
        let mut state = self.0.lock();
        let [primary, secondary] = &mut state.pics;
        match which {
            Pic::Primary => *primary = *new,
            Pic::Secondary => *secondary = *new,
        }
        state.cascade();
    }

    pub(super) fn ioapic(&self) -> kvm_ioapic_state {
        let mut state = self.0.lock();
        state.poll();
        state.ioapic
    }

    pub(super) fn set_ioapic(&self, new: &kvm_ioapic_state) {
        self.0.lock().ioapic = *new;
    }
}

impl State {
    fn poll(&mut self) {
        let raised: Vec<_> =
            self.irqfds.iter().filter(|irqfd| eventfd::take(&irqfd.trigger)).map(|irqfd| irqfd.gsi).collect();
        for gsi in raised {
            self.change(gsi, |line| line.irqfd = true);
        }
    }

    /// Changes who holds a line high, and with it the pins it leads to.
    fn change(&mut self, gsi: Gsi, change: impl FnOnce(&mut Line)) {
        if gsi.0 >= MAX_ROUTES {
            return;
        }
        let line = self.lines.entry(gsi).or_default();
        change(line);
        let level = line.user || line.irqfd;
        let [primary, secondary] = &mut self.pics;
        for route in &self.routes {
            match *route {
                Route::Irqchip { gsi: from, chip, pin } if from == gsi => match chip {
                    KVM_IRQCHIP_PIC_MASTER => set_pic_pin(primary, pin, level),
                    KVM_IRQCHIP_PIC_SLAVE => set_pic_pin(secondary, pin, level),
                    _ if level => self.ioapic.irr |= 1 << pin,
                    _ => self.ioapic.irr &= !(1 << pin),
                },
                Route::Irqchip { .. } | Route::Msi { .. } => {}
            }
        }
        self.cascade();
    }

    /// The second PIC asks for an interrupt on a line of the first, by an edge.
    fn cascade(&mut self) {
        let [primary, secondary] = &mut self.pics;
        if asks(secondary) {
            set_pic_pin(primary, CASCADE_PIN, true);
            set_pic_pin(primary, CASCADE_PIN, false);
        }
    }
}

/// Whether a PIC has an interrupt that is not masked, and goes before those in service.
fn asks(pic: &kvm_pic_state) -> bool {
    // Priorities go up from pin `priority_add` on, round the eight of them; 8 is none.
    let first = |pins: u8| pins.rotate_right(u32::from(pic.priority_add)).trailing_zeros();
    first(pic.irr & !pic.imr) < first(pic.isr)
}

/// A pin of a PIC changes its level. `elcr` says whether it is triggered by level or by edge; `last_irr` is the level.
fn set_pic_pin(pic: &mut kvm_pic_state, pin: u32, level: bool) {
    let bit = 1 << pin;
    let by_level = pic.elcr & bit != 0;
    if level && (by_level || pic.last_irr & bit == 0) {
        pic.irr |= bit;
    }
    if !level && by_level {
        pic.irr &= !bit;
    }
    if level { pic.last_irr |= bit } else { pic.last_irr &= !bit }
}

#[cfg(test)]
mod tests {
    use vmm_sys_util::eventfd::EFD_CLOEXEC;

    use super::*;

    fn event() -> Arc<EventFd> {
        Arc::new(EventFd::new(EFD_CLOEXEC).unwrap())
    }

    #[test]
    fn a_line_is_high_while_anybody_holds_it() {
        let (irqs, trigger, resample) = (SoftIrqs::default(), event(), event());
        irqs.register_irqfd(Gsi(5), &trigger, &resample).unwrap();
        trigger.write(1).unwrap();
        irqs.set_irq(Gsi(5), true);
        irqs.acknowledge(Gsi(5));
        assert!(eventfd::take(&resample));
        assert_eq!(irqs.ioapic().irr, 1 << 5, "held by set_irq");
        irqs.set_irq(Gsi(5), false);
        assert_eq!(irqs.ioapic().irr, 0);
    }

    #[test]
    fn a_pic_latches_an_edge_and_follows_a_level() {
        let irqs = SoftIrqs::default();
        irqs.set_pic(Pic::Primary, &kvm_pic_state { elcr: 1 << 5, ..irqs.pic(Pic::Primary) });
        for (gsi, after) in [(4, 1 << 4), (5, 1 << 4)] {
            irqs.set_irq(Gsi(gsi), true);
            irqs.set_irq(Gsi(gsi), false);
            assert_eq!(irqs.pic(Pic::Primary).irr, after);
        }
    }
}
