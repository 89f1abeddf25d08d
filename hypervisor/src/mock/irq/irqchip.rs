//! The mock's interrupts: what is shared of them, and who looks when.
//!
//! What a change leads to is [`GsiLines`]'s to know. Irqfds are written in other processes. Their triggers are looked
//! at by each vCPU before it executes for a while, and where it has nothing to do it waits for them; and when a chip is
//! asked for.
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

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kvm_bindings::{kvm_ioapic_state, kvm_pic_state, kvm_pit_state2};
use parking_lot::Mutex;
use rustix::event::epoll;

use super::apic_message::Message;
use super::gsi::{GsiLines, Irqfd};
use super::lapic_mmio::Written;
use super::pic::Port;
use super::pit::Pit;
use super::routing::RoutingTable;
use super::time_source::{Clock, NEVER, TimeSource};
use super::timers::Idle;
use crate::mock::io::eventfd;
use crate::mock::refused;
use crate::mock::vcpu::event_inbox::EventInbox;
use crate::{AddressSpace, EventFd, Gsi, Pic, Result, Route};

pub(in crate::mock) struct Irqchip {
    pub(super) lines: Mutex<GsiLines>,
    /// The PICs' output, as vCPUs were told of it last.
    output: AtomicBool,
    /// An epoll instance, readable while a trigger is signalled.
    triggers: OwnedFd,
    pub(super) has_irqfds: AtomicBool,
    pub(in crate::mock) time: TimeSource,
    /// When the next timer expires, of the PIT and of the local APICs, or earlier; [`NEVER`] where none does.
    pub(super) deadline: AtomicU64,
    pub(super) idle: Idle,
}

impl Irqchip {
    pub(in crate::mock) fn new(clock: Clock) -> Result<Self> {
        let triggers = epoll::create(epoll::CreateFlags::CLOEXEC);
        Ok(Self {
            lines: Mutex::default(),
            output: AtomicBool::new(false),
            triggers: triggers.map_err(|errno| refused("epoll_create1", errno.raw_os_error()))?,
            has_irqfds: AtomicBool::new(false),
            time: TimeSource::new(clock),
            deadline: AtomicU64::new(NEVER),
            idle: Idle::default(),
        })
    }

    /// There is another vCPU.
    pub(in crate::mock) fn add(&self, inbox: &Arc<EventInbox>) {
        let mut lines = self.lines.lock();
        inbox.set_pics(lines.pics.output());
        lines.cpus.add(inbox);
    }

    pub(in crate::mock) fn register_irqfd(
        &self,
        gsi: Gsi,
        trigger: &Arc<EventFd>,
        resample: &Arc<EventFd>,
    ) -> Result<()> {
        let mut lines = self.lines.lock();
        if lines.irqfds.iter().any(|irqfd| Arc::ptr_eq(&irqfd.trigger, trigger)) {
            return Err(refused("KVM_IRQFD", libc::EBUSY));
        }
        epoll::add(&self.triggers, eventfd::borrow(trigger), epoll::EventData::new_u64(0), epoll::EventFlags::IN)
            .map_err(|errno| refused("KVM_IRQFD", errno.raw_os_error()))?;
        lines.irqfds.push(Irqfd { gsi, trigger: Arc::clone(trigger), resample: Arc::clone(resample) });
        self.has_irqfds.store(true, Ordering::Release);
        Ok(())
    }

    pub(in crate::mock) fn unregister_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>) {
        self.change(|lines| {
            let before = lines.irqfds.len();
            lines.irqfds.retain(|irqfd| irqfd.gsi != gsi || !Arc::ptr_eq(&irqfd.trigger, trigger));
            if lines.irqfds.len() != before {
                // It is there, having been added when it was registered.
                let _ = epoll::delete(&self.triggers, eventfd::borrow(trigger));
            }
            self.has_irqfds.store(!lines.irqfds.is_empty(), Ordering::Release);
            if lines.irqfds.iter().all(|irqfd| irqfd.gsi != gsi) {
                lines.change(gsi, |line| line.irqfd = false);
            }
        });
    }

    /// Makes a change, and shows vCPUs what follows from it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut GsiLines) -> T) -> T {
        let mut lines = self.lines.lock();
        let result = change(&mut lines);
        self.publish(&lines);
        result
    }

    /// Shows vCPUs whether the PICs ask them to take an interrupt. Those that wait, or execute a batch of instructions,
    /// are to do so no longer than to the PIT's next interrupt.
    pub(super) fn publish(&self, lines: &GsiLines) {
        let output = lines.pics.output();
        if self.output.swap(output, Ordering::AcqRel) != output {
            for inbox in lines.cpus.iter() {
                inbox.set_pics(output);
            }
        }
        let deadline = lines.pit.deadline().unwrap_or(NEVER);
        if deadline < self.deadline.fetch_min(deadline, Ordering::AcqRel) {
            for inbox in lines.cpus.iter() {
                inbox.retime();
            }
        }
    }

    /// A change, or a look, behind what was written to triggers.
    pub(super) fn after_triggers<T>(&self, change: impl FnOnce(&mut GsiLines) -> T) -> T {
        self.poll();
        self.change(change)
    }

    pub(in crate::mock) fn set_irq(&self, gsi: Gsi, level: bool) {
        self.after_triggers(|lines| lines.change(gsi, |line| line.user = level));
    }

    /// A vCPU takes the interrupt that it is asked to take: its vector, unless another vCPU was first. The PICs go
    /// first.
    pub(in crate::mock) fn take_interrupt(&self, inbox: &EventInbox) -> Option<u8> {
        let of_pics = || {
            self.change(|lines| {
                lines.pics.output().then(|| {
                    let (vector, effect) = lines.pics.acknowledge();
                    lines.follow_pics(effect);
                    vector
                })
            })
        };
        let asks = self.output.load(Ordering::Acquire) && inbox.lets_pics_through();
        asks.then(of_pics).flatten().or_else(|| inbox.take_interrupt())
    }

    pub(in crate::mock) fn set_routing(&self, routes: &[Route]) -> Result<()> {
        self.lines.lock().routes = RoutingTable::new(routes)?;
        Ok(())
    }

    /// A script has acknowledged the interrupt of `gsi`.
    pub(in crate::mock) fn acknowledge(&self, gsi: Gsi) {
        self.after_triggers(|lines| lines.acknowledge(gsi));
    }

    /// Takes the guest's write to a chip.
    pub(in crate::mock) fn takes_write(
        &self,
        space: AddressSpace,
        address: u64,
        data: &[u8],
        inbox: &EventInbox,
    ) -> bool {
        self.report(inbox);
        match space {
            AddressSpace::Pio => self.takes_output(address, data),
            AddressSpace::Mmio => self.takes_store(address, data, inbox),
        }
    }

    fn takes_output(&self, port: u64, data: &[u8]) -> bool {
        if let (Some(port), Some(&value)) = (Pit::port_of(port, data.len()), data.first()) {
            self.after_triggers(|lines| lines.pit.write(port, value, self.time.now()));
            return true;
        }
        let Some(port) = Port::taking(port, data.len()) else { return false };
        if let &[value] = data {
            self.after_triggers(|lines| lines.write_pics(port, value));
        }
        true
    }

    fn takes_store(&self, address: u64, data: &[u8], inbox: &EventInbox) -> bool {
        let written = inbox.write(address, data, self.time.now());
        self.deadline.fetch_min(inbox.deadline(), Ordering::AcqRel);
        match written {
            Some(Written::Nothing) => {}
            Some(Written::Ended { vector, by_level }) => self.after_triggers(|lines| lines.end(vector, by_level)),
            Some(Written::Command { low, high }) => {
                let message = Message::of_command(low, high, inbox.id());
                self.lines.lock().cpus.deliver(&message);
            }
            None => {
                let Some(offset) = self.lines.lock().ioapic.offset_of(address) else { return false };
                self.after_triggers(|lines| lines.write_ioapic(offset, data));
            }
        }
        true
    }

    /// Answers the guest's read of a chip's port, of 1, 2 or 4 bytes.
    pub(in crate::mock) fn input(&self, port: u16, width: usize, inbox: &EventInbox) -> Option<u32> {
        self.report(inbox);
        if let Some(port) = Pit::port_of(port.into(), width) {
            return Some(self.after_triggers(|lines| lines.pit.read(port, self.time.now())).into());
        }
        let port = Port::taking(port.into(), width)?;
        if width != 1 {
            return Some(0);
        }
        let value = self.after_triggers(|lines| {
            let (value, effect) = lines.pics.read(port);
            lines.follow_pics(effect);
            value
        });
        Some(value.into())
    }

    /// Answers the guest's read, of 1 to 8 bytes, of a chip's memory.
    pub(in crate::mock) fn load(&self, address: u64, width: usize, inbox: &EventInbox) -> Option<u64> {
        let of_ioapic = || {
            let lines = self.lines.lock();
            lines.ioapic.offset_of(address).map(|offset| lines.ioapic.read(offset))
        };
        inbox.read(address, width, self.now(inbox)).or_else(of_ioapic)
    }

    /// What can be read while a trigger is signalled.
    pub(in crate::mock) fn triggers(&self) -> BorrowedFd<'_> {
        self.triggers.as_fd()
    }

    pub(in crate::mock) fn pic(&self, which: Pic) -> kvm_pic_state {
        self.after_triggers(|lines| *lines.pics.state(which))
    }

    pub(in crate::mock) fn set_pic(&self, which: Pic, new: &kvm_pic_state) {
        self.change(|lines| lines.pics.set_state(which, new));
    }

    pub(in crate::mock) fn ioapic(&self) -> kvm_ioapic_state {
        self.after_triggers(|lines| lines.ioapic.state())
    }

    pub(in crate::mock) fn pit(&self) -> kvm_pit_state2 {
        let mut state = self.after_triggers(|lines| lines.pit.state());
        for channel in &mut state.channels {
            channel.count_load_time = self.time.on_host(channel.count_load_time);
        }
        state
    }

    pub(in crate::mock) fn set_pit(&self, new: &kvm_pit_state2) {
        self.change(|lines| lines.pit.set_state(new, self.time.now()));
    }

    pub(in crate::mock) fn set_ioapic(&self, new: &kvm_ioapic_state) {
        self.change(|lines| lines.set_ioapic(new));
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
        let (irqs, trigger, resample) = (Irqchip::new(Clock::Virtual).unwrap(), event(), event());
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
        let irqs = Irqchip::new(Clock::Virtual).unwrap();
        irqs.set_pic(Pic::Primary, &kvm_pic_state { elcr: 1 << 5, ..irqs.pic(Pic::Primary) });
        for (gsi, after) in [(4, 1 << 4), (5, 1 << 4)] {
            irqs.set_irq(Gsi(gsi), true);
            irqs.set_irq(Gsi(gsi), false);
            assert_eq!(irqs.pic(Pic::Primary).irr, after);
        }
    }
}
