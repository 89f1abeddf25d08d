//! The vCPUs of a VM as messages reach them.
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

use std::sync::Arc;

use super::apic_message::{Destination, Message, Mode};
use crate::mock::vcpu::event_inbox::EventInbox;

/// In the order in which they were made.
#[derive(Default)]
pub(in crate::mock) struct ApicBus(Vec<Arc<EventInbox>>);

impl ApicBus {
    pub(in crate::mock) fn add(&mut self, inbox: &Arc<EventInbox>) {
        self.0.push(Arc::clone(inbox));
    }

    pub(in crate::mock) fn iter(&self) -> impl Iterator<Item = &EventInbox> {
        self.0.iter().map(Arc::as_ref)
    }

    /// Takes a message to those it is for; false where nobody accepts it.
    pub(in crate::mock) fn deliver(&self, message: &Message) -> bool {
        let addressed = self.iter().filter(|inbox| inbox.is_addressed(message));
        let is_for_one = message.mode == Mode::Lowest && message.to != Destination::Physical(0xff);
        if is_for_one {
            return match lowest(addressed.collect(), message) {
                Some(inbox) => inbox.receive(message),
                // As in KVM, which takes one to all for accepted where it does not find anybody.
                None => message.to == Destination::Logical(0xff),
            };
        }
        addressed.fold(false, |accepted, inbox| inbox.receive(message) | accepted)
    }
}

/// The one of the lowest priority is, as KVM chooses it, by turns of the vector's number. Those that a logical
/// destination names have their turns whether they are there or not.
fn lowest<'a>(among: Vec<&'a EventInbox>, message: &Message) -> Option<&'a EventInbox> {
    let turn = |of: usize| usize::from(message.vector).checked_rem(of);
    let Destination::Logical(id @ 0..=0xfe) = message.to else {
        return among.get(turn(among.len())?).copied();
    };
    let named = among.first()?.named_in(id);
    let bits = (0..8).map(|at| 1_u8 << at).filter(|bit| named & bit != 0);
    let bit = bits.clone().nth(turn(bits.count())?)?;
    among.into_iter().find(|inbox| inbox.named_in(id) & inbox.logical_id() & bit != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::VcpuId;

    /// Two vCPUs, ready for interrupts, with logical ids 2 and 1.
    fn two() -> ApicBus {
        let mut cpus = ApicBus::default();
        for (id, logical) in [(0, 2), (1, 1)] {
            let inbox = Arc::new(EventInbox::new(VcpuId(id)).unwrap());
            for (register, data) in [(0xf0, [0xff, 1, 0, 0]), (0xd0, [0, 0, 0, logical])] {
                inbox.write(0xfee0_0000 + register, &data, 0);
            }
            cpus.add(&inbox);
        }
        cpus
    }

    /// Who takes an interrupt, and its vector.
    fn taken(cpus: &ApicBus) -> Vec<(u32, u8)> {
        cpus.iter().filter_map(|inbox| Some((inbox.id().0, inbox.take_interrupt()?))).collect()
    }

    #[test]
    fn a_message_reaches_those_it_is_for() {
        let cpus = two();
        for (address, expected) in [
            (0xfee0_1000, &[(1, 0x41)][..]),
            (0xfee0_2004, &[(0, 0x41)]),
            (0xfee0_3004, &[(0, 0x41), (1, 0x41)]),
            (0xfeef_f000, &[(0, 0x41), (1, 0x41)]),
            (0xfee0_5000, &[]),
        ] {
            let cpus = two();
            assert_eq!(cpus.deliver(&Message::of_msi(address, 0x41)), !expected.is_empty(), "{address:#x}");
            assert_eq!(taken(&cpus), expected, "{address:#x}");
        }
        assert_eq!(taken(&cpus), []);
    }

    #[test]
    fn one_alone_takes_what_is_for_the_lowest_priority() {
        for (vector, expected) in [(0x40, 1), (0x41, 0)] {
            let cpus = two();
            assert!(cpus.deliver(&Message::of_msi(0xfee0_3004, 0x100 | vector)));
            assert_eq!(taken(&cpus), [(expected, vector as u8)]);
        }
    }
}
