//! A local APIC: its registers, and what follows from them. Intel SDM volume 3, chapter 12, as far as KVM models it.
//!
//! No performance counter and no thermal sensor is connected, and nothing drives LINT1: their entries in the local
//! vector table are registers that hold what was written. The error status stays 0. The timer has a
//! [file](super::lapic_timer) of its own.
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

use kvm_bindings::kvm_lapic_state;

use super::apic_message::{Destination, Message, Mode};
use super::lapic_timer::Timer;
use crate::VcpuId;
use crate::mock::reset;

/// Offsets of registers in the page.
pub(in crate::mock) mod register {
    pub(in crate::mock) const ID: usize = 0x20;
    pub(in crate::mock) const VERSION: usize = 0x30;
    pub(in crate::mock) const TASK_PRIORITY: usize = 0x80;
    pub(in crate::mock) const PROCESSOR_PRIORITY: usize = 0xa0;
    pub(in crate::mock) const END: usize = 0xb0;
    pub(in crate::mock) const LOGICAL_ID: usize = 0xd0;
    pub(in crate::mock) const LOGICAL_FORMAT: usize = 0xe0;
    pub(in crate::mock) const SPURIOUS: usize = 0xf0;
    /// The first of eight registers with a bit for each vector, as the next two.
    pub(in crate::mock) const IN_SERVICE: usize = 0x100;
    /// Which vectors were triggered by level.
    pub(in crate::mock) const BY_LEVEL: usize = 0x180;
    pub(in crate::mock) const REQUESTED: usize = 0x200;
    pub(in crate::mock) const COMMAND: usize = 0x300;
    pub(in crate::mock) const COMMAND_HIGH: usize = 0x310;
    /// The first of the local vector table's six: timer, thermal sensor, performance counter, LINT0, LINT1, error.
    pub(in crate::mock) const LVT: usize = 0x320;
    pub(in crate::mock) const LINT0: usize = 0x350;
    pub(in crate::mock) const INITIAL_COUNT: usize = 0x380;
    pub(in crate::mock) const CURRENT_COUNT: usize = 0x390;
    pub(in crate::mock) const DIVISOR: usize = 0x3e0;
}
use register::*;

/// Entries in the local vector table.
pub(in crate::mock) const LVT_ENTRIES: usize = 6;
/// An entry of the local vector table that is masked.
pub(in crate::mock) const MASKED: u32 = 1 << 16;
/// `IA32_APIC_BASE`: the local APIC is on.
const ENABLED: u64 = 1 << 11;
/// The spurious vector register: the local APIC is turned on by software too.
pub(in crate::mock) const SOFTWARE_ENABLED: u32 = 1 << 8;
/// Bytes of the register page.
const PAGE: u64 = 0x1000;
/// In a destination: every local APIC.
const EVERYBODY: u8 = 0xff;

/// A vCPU's.
pub(in crate::mock) struct Lapic {
    id: VcpuId,
    page: kvm_lapic_state,
    /// `IA32_APIC_BASE`.
    base: u64,
    pub(in crate::mock) timer: Timer,
}

impl Lapic {
    pub(in crate::mock) fn new(id: VcpuId) -> Self {
        Self { id, page: reset::lapic(id), base: reset::sregs(id).apic_base, timer: Timer::default() }
    }

    /// INIT: as after reset, but where the page lies and its id.
    pub(in crate::mock) fn init(&mut self) {
        let id = self.register(ID);
        self.page = reset::lapic(self.id);
        self.set_register(ID, id);
        self.init_timer();
    }

    /// The whole page, with the current count of the timer.
    pub(in crate::mock) fn state(&self, now: u64) -> kvm_lapic_state {
        let mut page = self.page;
        put(&mut page, CURRENT_COUNT, self.current_count(now));
        page
    }

    /// Sets the whole page but for what follows from the rest: the version, and the processor's priority.
    pub(in crate::mock) fn set_state(&mut self, new: &kvm_lapic_state, now: u64) {
        let version = self.register(VERSION);
        self.page = *new;
        self.set_register(VERSION, version);
        self.update_priority();
        self.resume_timer(now);
    }

    /// Where the page lies, and whether the local APIC is on (`IA32_APIC_BASE`).
    pub(in crate::mock) fn set_base(&mut self, base: u64) {
        if base & !self.base & ENABLED != 0 {
            self.set_register(ID, self.id.0 << 24);
        }
        self.base = base;
    }

    /// Where in the page an address lies.
    pub(in crate::mock) fn offset_of(&self, address: u64) -> Option<usize> {
        let offset = address.wrapping_sub(self.base & !(PAGE.wrapping_sub(1)));
        (offset < PAGE).then_some(offset as usize)
    }

    pub(in crate::mock) fn is_on(&self) -> bool {
        self.base & ENABLED != 0
    }

    fn accepts(&self) -> bool {
        self.is_on() && self.register(SPURIOUS) & SOFTWARE_ENABLED != 0
    }

    /// The register at `offset`.
    pub(in crate::mock) fn register(&self, offset: usize) -> u32 {
        let byte = |at: usize| self.page.regs.get(offset | at).map_or(0, |byte| byte.cast_unsigned());
        u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
    }

    pub(in crate::mock) fn set_register(&mut self, offset: usize, value: u32) {
        put(&mut self.page, offset, value);
    }

    /// Whether a vector's bit is set, in one of the three arrays.
    fn has(&self, array: usize, vector: u8) -> bool {
        let (register, bit) = place(array, vector);
        self.register(register) & bit != 0
    }

    fn put(&mut self, array: usize, vector: u8, is_set: bool) {
        let (register, bit) = place(array, vector);
        let before = self.register(register);
        self.set_register(register, if is_set { before | bit } else { before & !bit });
    }

    /// The highest vector in an array.
    fn highest(&self, array: usize) -> Option<u8> {
        (0..8_u8).rev().find_map(|index| {
            let highest = self.register(array | usize::from(index) << 4).checked_ilog2()?;
            Some(index << 5 | highest as u8)
        })
    }

    /// The priority of what the processor does: of its task, or of the highest vector in service (Intel SDM volume 3,
    /// section 12.8.3.1).
    pub(in crate::mock) fn priority(&self) -> u8 {
        let task = self.register(TASK_PRIORITY) as u8;
        let served = self.highest(IN_SERVICE).unwrap_or(0);
        if task >> 4 >= served >> 4 { task } else { served & 0xf0 }
    }

    pub(in crate::mock) fn update_priority(&mut self) {
        self.set_register(PROCESSOR_PRIORITY, self.priority().into());
    }

    /// The vector that the processor is asked to take.
    pub(in crate::mock) fn next(&self) -> Option<u8> {
        let vector = self.highest(REQUESTED)?;
        (self.is_on() && vector >> 4 > self.priority() >> 4).then_some(vector)
    }

    /// The processor takes it.
    pub(in crate::mock) fn take(&mut self) -> Option<u8> {
        let vector = self.next()?;
        self.put(REQUESTED, vector, false);
        self.put(IN_SERVICE, vector, true);
        self.update_priority();
        Some(vector)
    }

    /// The interrupt in service ends: its vector, and whether the IOAPIC waits for that because it was triggered by
    /// level.
    pub(in crate::mock) fn end(&mut self) -> Option<(u8, bool)> {
        let vector = self.highest(IN_SERVICE)?;
        self.put(IN_SERVICE, vector, false);
        self.update_priority();
        Some((vector, self.has(BY_LEVEL, vector)))
    }

    /// A vector is requested; false where nothing takes it.
    pub(in crate::mock) fn request(&mut self, vector: u8, by_level: bool) -> bool {
        if !self.accepts() {
            return false;
        }
        self.put(BY_LEVEL, vector, by_level);
        self.put(REQUESTED, vector, true);
        true
    }

    /// Whether an interrupt of the PICs reaches this vCPU: LINT0 is not masked and takes the vectors of an external
    /// controller (ExtINT), or the local APIC is off.
    pub(in crate::mock) fn lets_pics_through(&self) -> bool {
        const MODE: u32 = 7 << 8;
        !self.is_on() || self.register(LINT0) & (MASKED | MODE) == MODE
    }

    /// Whether a message is for this local APIC. The lowest priority is looked for among those that would take a
    /// vector.
    pub(in crate::mock) fn is_addressed(&self, message: &Message) -> bool {
        let is_addressed = match message.to {
            Destination::Physical(id) => id == EVERYBODY || u32::from(id) == self.register(ID) >> 24,
            Destination::Logical(id) => id == EVERYBODY || self.has_logical_id(id),
            Destination::Itself(sender) => sender == self.id,
            Destination::All => true,
            Destination::Others(sender) => sender != self.id,
        };
        is_addressed && self.is_on() && (message.mode != Mode::Lowest || self.accepts())
    }

    /// Flat, each bit is a local APIC's. In clusters, the upper four bits are the cluster's number and each of the
    /// lower is a local APIC's (Intel SDM volume 3, section 12.6.2.2).
    fn has_logical_id(&self, id: u8) -> bool {
        let own = self.logical_id();
        match self.register(LOGICAL_FORMAT) >> 28 {
            0xf => own & id != 0,
            0 => own >> 4 == id >> 4 && own & id & 0xf != 0,
            _ => false,
        }
    }

    pub(in crate::mock) fn is_in_cluster(&self) -> bool {
        self.register(LOGICAL_FORMAT) >> 28 == 0
    }

    pub(in crate::mock) fn logical_id(&self) -> u8 {
        (self.register(LOGICAL_ID) >> 24) as u8
    }
}

/// Puts a register's value into a page.
fn put(page: &mut kvm_lapic_state, offset: usize, value: u32) {
    for (place, byte) in page.regs.iter_mut().skip(offset).zip(value.to_le_bytes()) {
        *place = byte.cast_signed();
    }
}

/// A vector's register in an array of 256 bits, 32 every 16 bytes, and its bit there.
fn place(array: usize, vector: u8) -> (usize, u32) {
    (array | usize::from(vector >> 5) << 4, 1 << (vector & 31))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enabled() -> Lapic {
        let mut lapic = Lapic::new(VcpuId(1));
        lapic.set_register(SPURIOUS, SOFTWARE_ENABLED | 0xff);
        lapic
    }

    #[test]
    fn the_processor_priority_is_the_tasks_or_that_of_the_highest_vector_in_service() {
        let mut lapic = enabled();
        lapic.set_register(TASK_PRIORITY, 0x35);
        assert_eq!(lapic.priority(), 0x35);
        lapic.request(0x51, false);
        assert_eq!(lapic.take(), Some(0x51));
        assert_eq!((lapic.priority(), lapic.register(PROCESSOR_PRIORITY)), (0x50, 0x50));
    }

    #[test]
    fn a_vector_waits_for_all_of_its_class_and_above() {
        let mut lapic = enabled();
        for vector in [0x5f, 0x51] {
            assert!(lapic.request(vector, false));
        }
        assert_eq!((lapic.take(), lapic.next()), (Some(0x5f), None));
        assert!(lapic.request(0x60, true));
        assert_eq!((lapic.take(), lapic.next()), (Some(0x60), None));
        assert_eq!((lapic.end(), lapic.next()), (Some((0x60, true)), None));
        assert_eq!((lapic.end(), lapic.next()), (Some((0x5f, false)), Some(0x51)));
    }

    #[test]
    fn one_that_is_off_takes_nothing() {
        let mut lapic = Lapic::new(VcpuId(1));
        assert!(!lapic.request(0x51, false), "by software");
        let mut lapic = enabled();
        lapic.set_base(0xfee0_0000);
        assert!(!lapic.request(0x51, false));
        assert!(lapic.lets_pics_through());
    }

    #[test]
    fn it_knows_its_names() {
        let mut lapic = enabled();
        lapic.set_register(LOGICAL_ID, 0x24 << 24);
        let is_for = |lapic: &Lapic, to| lapic.is_addressed(&Message { to, ..Message::of_msi(0, 0x41) });
        for to in [Destination::Physical(1), Destination::Physical(0xff), Destination::Logical(0x2f)] {
            assert!(is_for(&lapic, to), "{to:?}");
        }
        for to in [Destination::Physical(0), Destination::Logical(0x43), Destination::Others(VcpuId(1))] {
            assert!(!is_for(&lapic, to), "{to:?}");
        }
        assert!(is_for(&lapic, Destination::Logical(0x04)), "flat");
        lapic.set_register(LOGICAL_FORMAT, 0x0fff_ffff);
        assert!(!is_for(&lapic, Destination::Logical(0x04)), "another cluster");
        assert!(is_for(&lapic, Destination::Logical(0x26)));
    }
}
