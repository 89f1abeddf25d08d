//! Interrupt lines and the chips they lead to: what one change leads to, step by step.
//!
//! A line's level is that of `set_irq` or of its irqfds, whichever is high. A change goes to the pins it is routed to;
//! a rise of one that is routed to a message sends it. What ends an interrupt lowers what irqfds raised and tells their
//! owners.
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

use kvm_bindings::{KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, kvm_ioapic_state};

use super::apic_bus::ApicBus;
use super::apic_message::Message;
use super::ioapic::Ioapic;
use super::pic::{self, Pics};
use super::pit::Pit;
use super::routing::{MAX_ROUTES, PIC_PINS, RoutingTable};
use crate::mock::io::eventfd;
use crate::{EventFd, Gsi, Pic, Route};

/// The lines of a VM, where they lead to, and who takes their interrupts.
#[derive(Default)]
pub(in crate::mock) struct GsiLines {
    pub(in crate::mock) routes: RoutingTable,
    lines: BTreeMap<Gsi, Line>,
    pub(in crate::mock) irqfds: Vec<Irqfd>,
    pub(in crate::mock) pics: Pics,
    pub(in crate::mock) ioapic: Ioapic,
    pub(in crate::mock) pit: Pit,
    pub(in crate::mock) cpus: ApicBus,
}

/// Who holds a line high.
#[derive(Clone, Copy, Default)]
pub(in crate::mock) struct Line {
    pub(in crate::mock) user: bool,
    pub(in crate::mock) irqfd: bool,
    pit: bool,
}

/// Where the PIT's interrupts go.
const PIT_GSI: Gsi = Gsi(0);

pub(in crate::mock) struct Irqfd {
    pub(in crate::mock) gsi: Gsi,
    pub(in crate::mock) trigger: Arc<EventFd>,
    pub(in crate::mock) resample: Arc<EventFd>,
}

impl GsiLines {
    /// Raises the lines whose triggers were written.
    pub(in crate::mock) fn poll(&mut self) {
        let raised: Vec<_> =
            self.irqfds.iter().filter(|irqfd| eventfd::take(&irqfd.trigger)).map(|irqfd| irqfd.gsi).collect();
        for gsi in raised {
            self.change(gsi, |line| line.irqfd = true);
        }
    }

    /// Changes who holds a line high, and with it the pins it leads to.
    pub(in crate::mock) fn change(&mut self, gsi: Gsi, change: impl FnOnce(&mut Line)) {
        if gsi.0 >= MAX_ROUTES {
            return;
        }
        let line = self.lines.entry(gsi).or_default();
        change(line);
        let level = line.user || line.irqfd || line.pit;
        let Self { routes, pics, ioapic, cpus, .. } = self;
        for route in routes.of(gsi) {
            match route {
                Route::Irqchip { chip: KVM_IRQCHIP_PIC_MASTER, pin, .. } => pics.set_pin(Pic::Primary, pin, level),
                Route::Irqchip { chip: KVM_IRQCHIP_PIC_SLAVE, pin, .. } => pics.set_pin(Pic::Secondary, pin, level),
                Route::Irqchip { pin, .. } => ioapic.set_pin(pin, level, &|message| cpus.deliver(message)),
                Route::Msi { address, data, .. } if level => {
                    cpus.deliver(&Message::of_msi(address, data));
                }
                Route::Msi { .. } => {}
            }
        }
    }

    /// The PIT's time has come to `now`.
    pub(in crate::mock) fn pass(&mut self, now: u64) {
        if self.pit.pass(now) {
            self.pulse();
        }
    }

    /// The PIT interrupts by an edge.
    fn pulse(&mut self) {
        for level in [true, false] {
            self.change(PIT_GSI, |line| line.pit = level);
        }
    }

    /// The interrupt of `gsi` has ended: its irqfds let go of the line and tell their owners, and the PIT goes on.
    pub(in crate::mock) fn acknowledge(&mut self, gsi: Gsi) {
        if gsi == PIT_GSI && self.pit.end() {
            self.pulse();
        }
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

    /// Makes what an access to the PICs leads to.
    pub(in crate::mock) fn follow_pics(&mut self, pic::Effect { ended, updates }: pic::Effect) {
        for (chip, pins) in [(KVM_IRQCHIP_PIC_MASTER, ended & 0xff), (KVM_IRQCHIP_PIC_SLAVE, ended >> 8)] {
            for pin in (0..PIC_PINS).filter(|pin| pins >> pin & 1 == 1) {
                if let Some(gsi) = self.routes.gsi_of(chip, pin) {
                    self.acknowledge(gsi);
                }
            }
        }
        if updates {
            self.pics.update();
        }
    }

    /// A local APIC has ended an interrupt of this vector: the pins that have sent it may have more to say.
    pub(in crate::mock) fn end(&mut self, vector: u8, by_level: bool) {
        let ends = by_level && self.ioapic.is_told_of(vector);
        for pin in self.ioapic.pins_of(vector) {
            if let Some(gsi) = self.routes.gsi_of(KVM_IRQCHIP_IOAPIC, pin) {
                self.acknowledge(gsi);
            }
            if ends {
                let Self { ioapic, cpus, .. } = self;
                ioapic.end(pin, &|message| cpus.deliver(message));
            }
        }
    }

    /// The guest writes to the IOAPIC. A level that is behind a mask no more may be out of date: irqfds let go of it,
    /// and their owners may raise it anew.
    pub(in crate::mock) fn write_ioapic(&mut self, offset: u8, data: &[u8]) {
        let effect = self.ioapic.write(offset, data);
        if let Some(pin) = effect.opened {
            self.open(KVM_IRQCHIP_IOAPIC, pin);
        }
        if let Some(pin) = effect.sends {
            if let Some(gsi) = self.routes.gsi_of(KVM_IRQCHIP_IOAPIC, pin) {
                self.acknowledge(gsi);
            }
            let Self { ioapic, cpus, .. } = self;
            ioapic.send_if_high(pin, &|message| cpus.deliver(message));
        }
    }

    /// A pin is not masked any more. What the PIT had to make up for there is forgotten.
    fn open(&mut self, chip: u32, pin: u32) {
        if self.routes.gsi_of(chip, pin) == Some(PIT_GSI) {
            self.pit.forget();
        }
    }

    /// The guest writes to a port of the PICs.
    pub(in crate::mock) fn write_pics(&mut self, port: pic::Port, value: u8) {
        let mask = self.pics.state(Pic::Primary).imr;
        let effect = self.pics.write(port, value);
        if port == pic::Port::Data(Pic::Primary) && mask & !self.pics.state(Pic::Primary).imr & 1 != 0 {
            self.open(KVM_IRQCHIP_PIC_MASTER, 0);
        }
        self.follow_pics(effect);
    }

    pub(in crate::mock) fn set_ioapic(&mut self, new: &kvm_ioapic_state) {
        let Self { ioapic, cpus, .. } = self;
        ioapic.set_state(new, &|message| cpus.deliver(message));
    }
}
