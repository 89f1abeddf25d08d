//! The pair of 8259A interrupt controllers of a PC: the state that KVM has of them, and what changes it by Intel's data
//! sheet.
//!
//! The second PIC asks for an interrupt through pin 2 of the first. Interrupts are taken at the first, from the highest
//! priority down: pins 0, 1, 8 to 15, 3 to 7 as long as nobody rotates them.
//!
//! As in a PC, and other than the data sheet has it, single mode and the triggering by level of the first command word
//! are ignored: there are always two, and `elcr` says which pins are triggered by level. `docs/mock-chips.md` lists
//! what was checked.
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

use kvm_bindings::kvm_pic_state;

use crate::Pic;
use crate::mock::reset;

/// Where the first PIC has the second.
const CASCADE: u8 = 1 << 2;
/// What a PIC gives when it is asked for an interrupt that has gone.
const SPURIOUS: u8 = 7;

/// Both PICs, and the line from the first to the processor.
pub(in crate::mock) struct Pics {
    primary: kvm_pic_state,
    secondary: kvm_pic_state,
    output: bool,
}

/// What an access leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(in crate::mock) struct Effect {
    /// The pins whose interrupts have ended: those of the second PIC in the upper 8 bits. What holds them high and
    /// waited for that is to let go first.
    pub(in crate::mock) ended: u16,
    /// Then the PICs are to be [updated](Pics::update).
    pub(in crate::mock) updates: bool,
}

impl Default for Pics {
    fn default() -> Self {
        let [primary, secondary] = reset::pics();
        Self { primary, secondary, output: false }
    }
}

impl Pics {
    /// One's state.
    pub(in crate::mock) fn state(&self, which: Pic) -> &kvm_pic_state {
        match which {
            Pic::Primary => &self.primary,
            Pic::Secondary => &self.secondary,
        }
    }

    fn state_mut(&mut self, which: Pic) -> &mut kvm_pic_state {
        match which {
            Pic::Primary => &mut self.primary,
            Pic::Secondary => &mut self.secondary,
        }
    }

    /// Sets one's state, which is to be kept as it is given.
    pub(in crate::mock) fn set_state(&mut self, which: Pic, state: &kvm_pic_state) {
        *self.state_mut(which) = *state;
        self.update();
    }

    /// Whether the processor is asked to take an interrupt.
    pub(in crate::mock) fn output(&self) -> bool {
        self.output
    }

    /// A pin, 0 to 7, has this level now.
    pub(in crate::mock) fn set_pin(&mut self, which: Pic, pin: u32, level: bool) {
        set_pin(self.state_mut(which), 1 << (pin & 7), level);
        self.update();
    }

    /// Sets the outputs by what there is to ask for. The second PIC's leads to the first, which latches its rise. If it
    /// falls before the interrupt is taken, nothing is left of it.
    pub(in crate::mock) fn update(&mut self) {
        let asks = next(&self.secondary, 0).is_some();
        set_pin(&mut self.primary, CASCADE, asks);
        if !asks {
            self.primary.irr &= !CASCADE;
        }
        self.output = self.next_of_primary().is_some();
    }

    /// In the special fully nested mode an interrupt of the second PIC does not keep away its others.
    fn next_of_primary(&self) -> Option<u8> {
        next(&self.primary, if self.primary.special_fully_nested_mode == 0 { 0 } else { CASCADE })
    }

    /// The processor takes an interrupt: its vector.
    pub(in crate::mock) fn acknowledge(&mut self) -> (u8, Effect) {
        let mut ended = 0;
        let Some(pin) = self.next_of_primary() else {
            return (self.primary.irq_base.wrapping_add(SPURIOUS), Effect { ended, updates: true });
        };
        if begin(&mut self.primary, pin) {
            ended |= 1 << pin;
        }
        let vector = if 1 << pin == CASCADE {
            let pin = next(&self.secondary, 0);
            if let Some(pin) = pin
                && begin(&mut self.secondary, pin)
            {
                ended |= 0x100 << pin;
            }
            // The second PIC's output falls as its interrupt is taken: the next one is another rise.
            self.primary.last_irr &= !CASCADE;
            self.secondary.irq_base.wrapping_add(pin.unwrap_or(SPURIOUS))
        } else {
            self.primary.irq_base.wrapping_add(pin)
        };
        (vector, Effect { ended, updates: true })
    }

    /// The guest reads a port of theirs.
    pub(in crate::mock) fn read(&mut self, port: Port) -> (u8, Effect) {
        match port {
            Port::Levels(which) => (self.state(which).elcr, Effect::default()),
            Port::Command(which) | Port::Data(which) if self.state(which).poll != 0 => {
                self.state_mut(which).poll = 0;
                self.poll(which)
            }
            Port::Command(which) => {
                let pic = self.state(which);
                (if pic.read_reg_select == 0 { pic.irr } else { pic.isr }, Effect::default())
            }
            Port::Data(which) => (self.state(which).imr, Effect::default()),
        }
    }

    /// An interrupt is taken by reading, as if the processor had acknowledged it.
    fn poll(&mut self, which: Pic) -> (u8, Effect) {
        const TAKEN: u8 = 0x80;
        let pin = match which {
            Pic::Primary => self.next_of_primary(),
            Pic::Secondary => next(&self.secondary, 0),
        };
        let Some(pin) = pin else { return (SPURIOUS, Effect { ended: 0, updates: true }) };
        let has_ended = begin(self.state_mut(which), pin);
        if let Pic::Secondary = which {
            self.primary.last_irr &= !CASCADE;
        }
        (pin | TAKEN, Effect { ended: if has_ended { of(which, 1 << pin) } else { 0 }, updates: true })
    }

    /// The guest writes to a port of theirs.
    pub(in crate::mock) fn write(&mut self, port: Port, value: u8) -> Effect {
        const ICW1: u8 = 0x10;
        const OCW3: u8 = 0x08;
        match port {
            Port::Levels(which) => {
                let pic = self.state_mut(which);
                pic.elcr = value & pic.elcr_mask;
                Effect::default()
            }
            Port::Command(which) if value & ICW1 != 0 => {
                Effect { ended: of(which, initialize(self.state_mut(which), value)), updates: true }
            }
            Port::Command(which) if value & OCW3 != 0 => {
                select(self.state_mut(which), value);
                Effect { ended: 0, updates: true }
            }
            Port::Command(which) => {
                let (ended, updates) = end(self.state_mut(which), value);
                Effect { ended: of(which, ended), updates }
            }
            Port::Data(which) => Effect { ended: 0, updates: set_data(self.state_mut(which), value) },
        }
    }
}

/// A port of the PICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mock) enum Port {
    Command(Pic),
    Data(Pic),
    /// Which pins are triggered by level.
    Levels(Pic),
}

impl Port {
    /// The port of this number.
    pub(in crate::mock) fn of_number(number: u64) -> Option<Self> {
        Some(match number {
            0x20 => Self::Command(Pic::Primary),
            0x21 => Self::Data(Pic::Primary),
            0xa0 => Self::Command(Pic::Secondary),
            0xa1 => Self::Data(Pic::Secondary),
            0x4d0 => Self::Levels(Pic::Primary),
            0x4d1 => Self::Levels(Pic::Secondary),
            _ => return None,
        })
    }

    /// The port at which an access of this width begins, where all of it is the PICs'. Wider ones than of a byte are,
    /// in KVM, without effect.
    pub(in crate::mock) fn taking(number: u64, width: usize) -> Option<Self> {
        let port = Self::of_number(number)?;
        let is_first_of_two = number & 1 == 0;
        (width == 1 || width == 2 && is_first_of_two).then_some(port)
    }
}

/// Pins of one PIC among those of both.
fn of(which: Pic, pins: u8) -> u16 {
    match which {
        Pic::Primary => pins.into(),
        Pic::Secondary => u16::from(pins) << 8,
    }
}

/// How far behind the first the pin of the highest priority is, of these; 8 where there is none.
fn distance(pic: &kvm_pic_state, pins: u8) -> u32 {
    // Priorities go down from pin `priority_add` on, round the eight of them.
    pins.rotate_right(pic.priority_add.into()).trailing_zeros()
}

/// The pin at this distance.
fn pin_at(pic: &kvm_pic_state, distance: u32) -> u8 {
    pic.priority_add.wrapping_add(distance as u8) & 7
}

/// The pin whose interrupt is next: not masked, and before all that are in service, but those that do not count.
fn next(pic: &kvm_pic_state, not_counted: u8) -> Option<u8> {
    let wanted = distance(pic, pic.irr & !pic.imr);
    (wanted < distance(pic, holding(pic) & !not_counted)).then(|| pin_at(pic, wanted))
}

/// The pins in service that keep away others: in the special mask mode not those that are masked.
fn holding(pic: &kvm_pic_state) -> u8 {
    if pic.special_mask == 0 { pic.isr } else { pic.isr & !pic.imr }
}

/// A pin has this level now. `elcr` says whether it is triggered by level or by edge; `last_irr` is the level.
fn set_pin(pic: &mut kvm_pic_state, bit: u8, level: bool) {
    let by_level = pic.elcr & bit != 0;
    if level && (by_level || pic.last_irr & bit == 0) {
        pic.irr |= bit;
    }
    if !level && by_level {
        pic.irr &= !bit;
    }
    if level { pic.last_irr |= bit } else { pic.last_irr &= !bit }
}

/// A pin's interrupt is in service now; true where it has ended with that (AEOI).
fn begin(pic: &mut kvm_pic_state, pin: u8) -> bool {
    let bit = 1 << pin;
    pic.isr |= bit;
    if pic.elcr & bit == 0 {
        pic.irr &= !bit;
    }
    if pic.auto_eoi == 0 {
        return false;
    }
    if pic.rotate_on_auto_eoi != 0 {
        pic.priority_add = pin.wrapping_add(1) & 7;
    }
    pic.isr &= !bit;
    true
}

/// ICW1: begins the initialization. Edges that were latched are lost, and count as ended.
fn initialize(pic: &mut kvm_pic_state, value: u8) -> u8 {
    let lost = pic.irr & !pic.elcr;
    pic.init4 = value & 1;
    pic.last_irr = 0;
    pic.irr &= pic.elcr;
    pic.imr = 0;
    pic.priority_add = 0;
    pic.special_mask = 0;
    pic.read_reg_select = 0;
    if pic.init4 == 0 {
        pic.special_fully_nested_mode = 0;
        pic.auto_eoi = 0;
    }
    pic.init_state = 1;
    pic.isr &= !lost;
    lost
}

/// OCW3: what is read at the command port, and the special mask mode.
fn select(pic: &mut kvm_pic_state, value: u8) {
    if value & 4 != 0 {
        pic.poll = 1;
    }
    if value & 2 != 0 {
        pic.read_reg_select = value & 1;
    }
    if value & 0x40 != 0 {
        pic.special_mask = value >> 5 & 1;
    }
}

/// OCW2: ends an interrupt, or moves the priorities. The pins that have ended, and whether there is to be an update.
fn end(pic: &mut kvm_pic_state, value: u8) -> (u8, bool) {
    let (rotates, specific, ends) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
    let pin = match (ends, specific) {
        (_, true) => value & 7,
        (true, false) => match distance(pic, holding(pic)) {
            8 => return (0, false),
            first => pin_at(pic, first),
        },
        (false, false) => {
            pic.rotate_on_auto_eoi = rotates.into();
            return (0, false);
        }
    };
    if rotates {
        pic.priority_add = pin.wrapping_add(1) & 7;
    }
    if !ends {
        return (0, rotates);
    }
    pic.isr &= !(1 << pin);
    (1 << pin, true)
}

/// The data port: ICW2 to ICW4 one after the other, else the mask. Whether there is to be an update.
fn set_data(pic: &mut kvm_pic_state, value: u8) -> bool {
    match pic.init_state {
        0 => {
            pic.imr = value;
            return true;
        }
        1 => {
            pic.irq_base = value & 0xf8;
            pic.init_state = 2;
        }
        2 => pic.init_state = if pic.init4 == 0 { 0 } else { 3 },
        _ => {
            pic.special_fully_nested_mode = value >> 4 & 1;
            pic.auto_eoi = value >> 1 & 1;
            pic.init_state = 0;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both initialized as a PC does it: vectors from 0x20 and 0x28 on, all pins open.
    fn ready() -> Pics {
        let mut pics = Pics::default();
        for (port, value) in [(0x20, 0x11), (0xa0, 0x11), (0x21, 0x20), (0xa1, 0x28), (0x21, 4), (0xa1, 2)] {
            write(&mut pics, port, value);
        }
        for port in [0x21, 0xa1] {
            write(&mut pics, port, 1);
            write(&mut pics, port, 0);
        }
        pics
    }

    /// A write, with its update; the pins that ended.
    fn write(pics: &mut Pics, port: u64, value: u8) -> u16 {
        let effect = pics.write(Port::of_number(port).unwrap(), value);
        if effect.updates {
            pics.update();
        }
        effect.ended
    }

    fn read(pics: &mut Pics, port: u64) -> u8 {
        pics.read(Port::of_number(port).unwrap()).0
    }

    fn raise(pics: &mut Pics, pins: &[u32]) {
        for &pin in pins {
            let which = if pin < 8 { Pic::Primary } else { Pic::Secondary };
            pics.set_pin(which, pin % 8, true);
            pics.set_pin(which, pin % 8, false);
        }
    }

    /// The vector that is taken, where one is asked for.
    fn take(pics: &mut Pics) -> Option<u8> {
        pics.output().then(|| {
            let vector = pics.acknowledge().0;
            pics.update();
            vector
        })
    }

    #[test]
    fn interrupts_are_taken_from_the_highest_priority_down_each_after_the_end_of_the_one_before() {
        let mut pics = ready();
        raise(&mut pics, &[7, 3, 15, 8, 1]);
        for (vector, ports) in [(0x21, &[0x20][..]), (0x28, &[0xa0, 0x20]), (0x2f, &[0xa0, 0x20]), (0x23, &[0x20])] {
            assert_eq!(take(&mut pics), Some(vector));
            assert_eq!(take(&mut pics), None);
            for &port in ports {
                write(&mut pics, port, 0x20);
            }
        }
        assert_eq!(take(&mut pics), Some(0x27));
    }

    #[test]
    fn an_end_names_its_pin_or_is_that_of_the_highest_priority() {
        let mut pics = ready();
        raise(&mut pics, &[5]);
        take(&mut pics);
        raise(&mut pics, &[3]);
        take(&mut pics);
        assert_eq!(write(&mut pics, 0x20, 0x65), 1 << 5);
        assert_eq!(write(&mut pics, 0x20, 0x20), 1 << 3);
        assert_eq!(write(&mut pics, 0x20, 0x20), 0, "none is in service");
        assert_eq!(write(&mut pics, 0xa0, 0x61), 1 << 9);
    }

    #[test]
    fn priorities_rotate_with_an_end_or_by_themselves() {
        let mut pics = ready();
        write(&mut pics, 0x20, 0xc4);
        raise(&mut pics, &[1, 6]);
        assert_eq!(take(&mut pics), Some(0x26), "from 5 on");
        write(&mut pics, 0x20, 0xa0);
        raise(&mut pics, &[6, 0]);
        assert_eq!(take(&mut pics), Some(0x20), "from 7 on");
    }

    #[test]
    fn what_is_read_at_the_ports_is_what_was_selected() {
        let mut pics = ready();
        raise(&mut pics, &[4]);
        take(&mut pics);
        raise(&mut pics, &[6]);
        assert_eq!(read(&mut pics, 0x20), 1 << 6);
        write(&mut pics, 0x20, 0x0b);
        assert_eq!(read(&mut pics, 0x20), 1 << 4);
        write(&mut pics, 0x4d0, 0xff);
        assert_eq!(read(&mut pics, 0x4d0), 0xf8, "not those of timer, keyboard and cascade");
    }

    #[test]
    fn a_poll_takes_an_interrupt_that_its_end_ends() {
        let mut pics = ready();
        raise(&mut pics, &[10]);
        write(&mut pics, 0xa0, 0x0c);
        let (pin, effect) = pics.read(Port::of_number(0xa0).unwrap());
        assert_eq!((pin, effect.ended), (0x82, 0));
        pics.update();
        assert_eq!((take(&mut pics), pics.state(Pic::Secondary).isr), (None, 1 << 2));
        assert_eq!(write(&mut pics, 0xa0, 0x20), 1 << 10);
    }

    #[test]
    fn an_initialization_ends_the_edges_that_it_drops() {
        let mut pics = ready();
        raise(&mut pics, &[4]);
        assert_eq!(write(&mut pics, 0x20, 0x11), 1 << 4);
        assert!(!pics.output());
        assert_eq!(pics.acknowledge().0, 0x27, "what is taken all the same is spurious");
    }

    #[test]
    fn a_level_that_falls_before_it_is_taken_leaves_nothing() {
        let mut pics = ready();
        for port in [0x4d0, 0x4d1] {
            write(&mut pics, port, 0xff);
        }
        for (which, pin) in [(Pic::Primary, 5), (Pic::Secondary, 2)] {
            pics.set_pin(which, pin, true);
            assert!(pics.output(), "{which:?}");
            pics.set_pin(which, pin, false);
            assert_eq!((take(&mut pics), pics.state(Pic::Primary).irr), (None, 0), "{which:?}");
        }
        // Behind a mask of the second PIC too.
        pics.set_pin(Pic::Secondary, 2, true);
        write(&mut pics, 0xa1, 1 << 2);
        assert_eq!((take(&mut pics), pics.state(Pic::Primary).irr), (None, 0));
        write(&mut pics, 0xa1, 0);
        assert_eq!(take(&mut pics), Some(0x2a));
    }

    #[test]
    fn each_interrupt_of_the_second_pic_is_a_rise_of_its_own() {
        for (automatic, ends) in [(1, &[0xa0, 0x20][..]), (3, &[])] {
            let mut pics = ready();
            for port in [0x20, 0xa0] {
                for (at, value) in
                    [(port, 0x11), (port + 1, port as u8), (port + 1, 0), (port + 1, automatic), (port + 1, 0)]
                {
                    write(&mut pics, at, value);
                }
            }
            raise(&mut pics, &[8, 9, 10]);
            for vector in [0xa0, 0xa1, 0xa2] {
                assert_eq!(take(&mut pics), Some(vector));
                for &port in ends {
                    write(&mut pics, port, 0x20);
                }
            }
            assert_eq!(take(&mut pics), None);
        }
    }

    #[test]
    fn the_special_mask_mode_lets_lower_priorities_in() {
        let mut pics = ready();
        raise(&mut pics, &[3]);
        assert_eq!(take(&mut pics), Some(0x23));
        raise(&mut pics, &[6]);
        assert_eq!(take(&mut pics), None);
        write(&mut pics, 0x21, 1 << 3);
        assert_eq!(take(&mut pics), None, "a mask alone does not");
        write(&mut pics, 0x20, 0x68);
        assert_eq!(take(&mut pics), Some(0x26));
        assert_eq!(write(&mut pics, 0x20, 0x20), 1 << 6, "the end passes over the masked one");
        assert_eq!(write(&mut pics, 0x20, 0x20), 0);
        write(&mut pics, 0x20, 0x48);
        assert_eq!(write(&mut pics, 0x20, 0x20), 1 << 3);
    }

    #[test]
    fn in_the_special_fully_nested_mode_one_of_the_second_pic_interrupts_another() {
        let mut pics = ready();
        for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 0x11), (0x21, 0)] {
            write(&mut pics, port, value);
        }
        raise(&mut pics, &[14]);
        assert_eq!(take(&mut pics), Some(0x2e));
        raise(&mut pics, &[9]);
        assert_eq!(take(&mut pics), Some(0x29));
    }

    #[test]
    fn words_are_taken_where_both_bytes_are_the_pics() {
        assert!(Port::taking(0x20, 2).is_some());
        assert!(Port::taking(0x21, 2).is_none());
        assert!(Port::taking(0x20, 4).is_none());
        assert!(Port::taking(0x22, 1).is_none());
    }
}
