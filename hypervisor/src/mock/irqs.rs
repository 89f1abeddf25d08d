//! The mock's interrupt lines: what raises them, and where they lead to.
//!
//! A line's level is that of `set_irq` or of its irqfds, whichever is high. A change goes to the pins it is routed to: those
//! of the [PICs](Pics), which ask vCPUs to take an interrupt, and those of the IOAPIC, whose `irr` follows the line and
//! which delivers none. The guest ends an interrupt at a PIC; a script by [`Step::Acknowledge`](super::Step::Acknowledge).
//!
//! Irqfds are written in other processes. Their triggers are looked at by each vCPU before it executes for a while, and where
//! it has nothing to do it waits for them; and when a chip is asked for.
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
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state, kvm_pic_state,
};
use parking_lot::{Mutex, MutexGuard};
use rustix::event::{Timespec, epoll};

use super::alarm::Alarm;
use super::pic::{Effect, Pics, Port};
use super::{eventfd, refused, reset};
use crate::{AddressSpace, EventFd, Gsi, Pic, Result, Route};

/// `KVM_MAX_IRQ_ROUTES`: of routes, and of GSIs.
pub(super) const MAX_ROUTES: u32 = 4096;
const PIC_PINS: u32 = 8;
const IOAPIC_PINS: u32 = 24;

pub(super) struct SoftIrqs {
    state: Mutex<State>,
    /// The PICs' output, to be looked at between instructions.
    output: AtomicBool,
    /// An epoll instance, readable while a trigger is signalled.
    triggers: OwnedFd,
    has_irqfds: AtomicBool,
    /// Of the vCPUs that may wait for an interrupt.
    alarms: Mutex<Vec<Weak<Alarm>>>,
}

struct State {
    routes: Vec<Route>,
    lines: BTreeMap<Gsi, Line>,
    irqfds: Vec<Irqfd>,
    pics: Pics,
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
            pics: Pics::default(),
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
    pub(super) fn new() -> Result<Self> {
        let triggers = epoll::create(epoll::CreateFlags::CLOEXEC);
        Ok(Self {
            state: Mutex::default(),
            output: AtomicBool::new(false),
            triggers: triggers.map_err(|errno| refused("epoll_create1", errno.raw_os_error()))?,
            has_irqfds: AtomicBool::new(false),
            alarms: Mutex::default(),
        })
    }

    /// A vCPU's alarm rings from now on when there is something to look at.
    pub(super) fn wakes(&self, alarm: &Arc<Alarm>) {
        let mut alarms = self.alarms.lock();
        alarms.retain(|alarm| alarm.strong_count() != 0);
        alarms.push(Arc::downgrade(alarm));
    }

    fn ring(&self) {
        for alarm in self.alarms.lock().iter().filter_map(Weak::upgrade) {
            alarm.ring();
        }
    }

    pub(super) fn register_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>, resample: &Arc<EventFd>) -> Result<()> {
        let mut state = self.state.lock();
        if state.irqfds.iter().any(|irqfd| Arc::ptr_eq(&irqfd.trigger, trigger)) {
            return Err(refused("KVM_IRQFD", libc::EBUSY));
        }
        epoll::add(&self.triggers, eventfd::borrow(trigger), epoll::EventData::new_u64(0), epoll::EventFlags::IN)
            .map_err(|errno| refused("KVM_IRQFD", errno.raw_os_error()))?;
        state.irqfds.push(Irqfd { gsi, trigger: Arc::clone(trigger), resample: Arc::clone(resample) });
        self.has_irqfds.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn unregister_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>) {
        let mut state = self.state.lock();
        let before = state.irqfds.len();
        state.irqfds.retain(|irqfd| irqfd.gsi != gsi || !Arc::ptr_eq(&irqfd.trigger, trigger));
        if state.irqfds.len() != before {
            // It is there, having been added when it was registered.
            let _ = epoll::delete(&self.triggers, eventfd::borrow(trigger));
        }
        self.has_irqfds.store(!state.irqfds.is_empty(), Ordering::Release);
        if state.irqfds.iter().all(|irqfd| irqfd.gsi != gsi) {
            state.change(gsi, |line| line.irqfd = false);
        }
        self.show(&state);
    }

    pub(super) fn set_irq(&self, gsi: Gsi, level: bool) {
        let mut state = self.lock();
        state.change(gsi, |line| line.user = level);
        self.show(&state);
    }

    /// Shows vCPUs whether they are asked to take an interrupt.
    fn show(&self, state: &State) {
        let output = state.pics.output();
        if self.output.swap(output, Ordering::AcqRel) != output && output {
            self.ring();
        }
    }

    /// Whether vCPUs are asked to take an interrupt.
    #[inline]
    pub(super) fn output(&self) -> bool {
        self.output.load(Ordering::Acquire)
    }

    /// Takes the interrupt that vCPUs are asked to take: its vector, unless another vCPU was first.
    pub(super) fn take_interrupt(&self) -> Option<u8> {
        let mut state = self.state.lock();
        state.pics.output().then(|| {
            let (vector, effect) = state.pics.acknowledge();
            self.follow(&mut state, effect);
            vector
        })
    }

    /// Makes what an access to the PICs leads to.
    fn follow(&self, state: &mut State, Effect { ended, updates }: Effect) {
        for (which, pins) in [(Pic::Primary, ended & 0xff), (Pic::Secondary, ended >> 8)] {
            for pin in (0..PIC_PINS).filter(|pin| pins >> pin & 1 == 1) {
                if let Some(gsi) = state.gsi_of(which, pin) {
                    state.acknowledge(gsi);
                }
            }
        }
        if updates {
            state.pics.update();
        }
        self.show(state);
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
        self.state.lock().routes = routes.to_vec();
        Ok(())
    }

    /// A script has acknowledged the interrupt of `gsi`.
    pub(super) fn acknowledge(&self, gsi: Gsi) {
        let mut state = self.lock();
        state.acknowledge(gsi);
        self.show(&state);
    }

    /// Takes the guest's write to a chip.
    pub(super) fn takes_write(&self, space: AddressSpace, address: u64, data: &[u8]) -> bool {
        if space != AddressSpace::Pio {
            return false;
        }
        let Some(port) = Port::taking(address, data.len()) else { return false };
        if let &[value] = data {
            let mut state = self.state.lock();
            state.poll();
            let effect = state.pics.write(port, value);
            self.follow(&mut state, effect);
        }
        true
    }

    /// Answers the guest's read of a chip's port, of 1, 2 or 4 bytes.
    pub(super) fn input(&self, port: u16, width: usize) -> Option<u32> {
        let port = Port::taking(port.into(), width)?;
        if width != 1 {
            return Some(0);
        }
        let mut state = self.lock();
        let (value, effect) = state.pics.read(port);
        self.follow(&mut state, effect);
        Some(value.into())
    }

    /// What can be read while a trigger is signalled.
    pub(super) fn triggers(&self) -> BorrowedFd<'_> {
        self.triggers.as_fd()
    }

    /// Raises the lines whose triggers were written.
    pub(super) fn poll(&self) {
        if !self.has_irqfds.load(Ordering::Acquire) {
            return;
        }
        let mut signalled = [MaybeUninit::uninit()];
        match epoll::wait(&self.triggers, &mut signalled, Some(&Timespec::default())) {
            Ok(([], _)) => {}
            _ => self.look(),
        }
    }

    /// The state, with what was written to triggers.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.poll();
        self.state.lock()
    }

    #[cold]
    fn look(&self) {
        let mut state = self.state.lock();
        state.poll();
        self.show(&state);
    }

    pub(super) fn pic(&self, which: Pic) -> kvm_pic_state {
        *self.lock().pics.state(which)
    }

    pub(super) fn set_pic(&self, which: Pic, new: &kvm_pic_state) {
        let mut state = self.state.lock();
        state.pics.set_state(which, new);
        self.show(&state);
    }

    pub(super) fn ioapic(&self) -> kvm_ioapic_state {
        self.lock().ioapic
    }

    pub(super) fn set_ioapic(&self, new: &kvm_ioapic_state) {
        self.state.lock().ioapic = *new;
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
        for route in &self.routes {
            match *route {
                Route::Irqchip { gsi: from, chip, pin } if from == gsi => match chip {
                    KVM_IRQCHIP_PIC_MASTER => self.pics.set_pin(Pic::Primary, pin, level),
                    KVM_IRQCHIP_PIC_SLAVE => self.pics.set_pin(Pic::Secondary, pin, level),
                    _ if level => self.ioapic.irr |= 1 << pin,
                    _ => self.ioapic.irr &= !(1 << pin),
                },
                Route::Irqchip { .. } | Route::Msi { .. } => {}
            }
        }
    }

    /// The interrupt of `gsi` has ended: its irqfds let go of the line and tell their owners.
    fn acknowledge(&mut self, gsi: Gsi) {
        let resample: Vec<_> =
            self.irqfds.iter().filter(|irqfd| irqfd.gsi == gsi).map(|irqfd| &irqfd.resample).collect();
        if resample.is_empty() {
            return;
        }
        for event in resample {
            eventfd::signal(event);
        }
        self.change(gsi, |line| line.irqfd = false);
    }

    /// The GSI whose route leads to a pin of a PIC.
    fn gsi_of(&self, which: Pic, pin: u32) -> Option<Gsi> {
        let chip = match which {
            Pic::Primary => KVM_IRQCHIP_PIC_MASTER,
            Pic::Secondary => KVM_IRQCHIP_PIC_SLAVE,
        };
        self.routes.iter().rev().find_map(|route| match *route {
            Route::Irqchip { gsi, chip: to, pin: at } if (to, at) == (chip, pin) => Some(gsi),
            _ => None,
        })
    }
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
        let (irqs, trigger, resample) = (SoftIrqs::new().unwrap(), event(), event());
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
        let irqs = SoftIrqs::new().unwrap();
        irqs.set_pic(Pic::Primary, &kvm_pic_state { elcr: 1 << 5, ..irqs.pic(Pic::Primary) });
        for (gsi, after) in [(4, 1 << 4), (5, 1 << 4)] {
            irqs.set_irq(Gsi(gsi), true);
            irqs.set_irq(Gsi(gsi), false);
            assert_eq!(irqs.pic(Pic::Primary).irr, after);
        }
    }
}
