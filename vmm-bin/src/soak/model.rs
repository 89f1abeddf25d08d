//! What a vCPU must do next, so that no exit can be lost, come twice, or come out of order without being noticed.
//!
//! Two of a guest's steps may be seen or not: a write to memory that may be RAM at the time, and one to a port that may be
//! nobody's. What follows shows that they were made.

use std::collections::VecDeque;
use std::fmt;

use plugin_sdk::{Access, AddressSpace};

use super::layout;
use super::program::{Last, Program, Step, Width};
use super::random::Random;

/// Which kind of access it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Posted,
}

/// An access that came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen<'a> {
    pub(super) kind: Kind,
    pub(super) access: Access,
    /// What was written.
    pub(super) data: &'a [u8],
}

/// What the model makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It was due; this is what a read gets.
    Go(Vec<u8>),
    /// It was the last.
    Done,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wrong(pub(super) String);

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Coalesced writes of one vCPU. With several vCPUs they come in any order, on any of their channels, but each comes once: so what is
/// compared is how many there were, and two sums by which no one of them can be taken for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Coalesced {
    writes: u64,
    sum: u64,
    squares: u64,
}

impl Coalesced {
    pub(super) fn add(&mut self, value: u32) {
        let value = u64::from(value);
        self.writes += 1;
        self.sum = self.sum.wrapping_add(value);
        self.squares = self.squares.wrapping_add(value.wrapping_mul(value));
    }
}

/// A part of a step that comes as one access, or as several if it is a string.
#[derive(Clone, Debug)]
struct Part {
    kind: Kind,
    space: AddressSpace,
    address: u64,
    /// What is written, or what is to be read.
    data: Vec<u8>,
    /// It may come in pieces.
    string: bool,
}

#[derive(Debug)]
pub(super) struct Model {
    vcpu: usize,
    program: Program,
    seed: u64,
    /// The step that is under way, in the round that is.
    at: usize,
    round: u32,
    /// EBX, ESI.
    count: u32,
    sum: u32,
    /// What is still to come of the step that is under way.
    due: VecDeque<Part>,
    /// It need not come.
    optional: bool,
    /// What the step's count was when it last wrote to memory that was RAM; not yet seen there.
    landed: Option<u32>,
    landings: u64,
    /// For ports, for memory.
    bells: [u64; 2],
    coalesced: Coalesced,
    finished: bool,
}

impl Model {
    pub(super) fn new(vcpu: usize, program: Program, seed: u64) -> Self {
        Self {
            vcpu,
            program,
            seed,
            at: 0,
            round: 0,
            count: 0,
            sum: 0,
            due: VecDeque::new(),
            optional: false,
            landed: None,
            landings: 0,
            bells: [0; 2],
            coalesced: Coalesced::default(),
            finished: false,
        }
    }

    /// What EBX is at the access that was taken last.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// How often it has signalled its eventfd of ports, and that of memory.
    pub(super) fn bells(&self) -> [u64; 2] {
        self.bells
    }

    /// What it has written where writes are coalesced.
    pub(super) fn coalesced(&self) -> Coalesced {
        self.coalesced
    }

    /// How often it has written to memory that was RAM at the time.
    pub(super) fn landings(&self) -> u64 {
        self.landings
    }

    /// Whether nothing more is to come.
    pub(super) fn is_finished(&self) -> bool {
        self.finished
    }

    /// Takes an access. `window` tells what lies in the vCPU's places of the memories that are RAM at times.
    pub(super) fn take(&mut self, seen: &Seen<'_>, window: impl FnOnce() -> [u32; 2]) -> Result<Next, Wrong> {
        loop {
            while self.due.is_empty() && !self.finished {
                self.begin_step();
            }
            match self.due.front() {
                None => return Err(self.wrong(seen, "nothing more is due")),
                Some(part) if part.is(seen) => break,
                Some(part) if !self.optional => return Err(self.wrong(seen, &format!("{part} was due"))),
                Some(part) => {
                    if part.address == layout::WINDOW + layout::slot(self.vcpu) {
                        self.landed = Some(self.count);
                        self.landings += 1;
                    }
                    self.due.clear();
                }
            }
        }
        // The guest is stopped, so what it wrote last is there.
        if seen.kind != Kind::Posted
            && let Some(landed) = self.landed.take()
            && !window().contains(&landed)
        {
            return Err(self.wrong(seen, &format!("write {landed} to memory is lost")));
        }
        let answer = self.take_part(seen);
        // A guest that faults has said all it had to say with its last step.
        let last = self.program.steps.len() + usize::from(self.program.last == Last::Done);
        self.finished = self.due.is_empty() && self.at == last;
        Ok(if self.finished && self.program.last == Last::Done { Next::Done } else { Next::Go(answer) })
    }

    /// Takes so many bytes of the part that is due.
    fn take_part(&mut self, seen: &Seen<'_>) -> Vec<u8> {
        let Some(part) = self.due.front_mut() else { return Vec::new() };
        let answer = part.data.drain(..seen.access.length.min(part.data.len())).collect();
        if part.data.is_empty() {
            self.due.pop_front();
        }
        if seen.kind == Kind::Read { answer } else { Vec::new() }
    }

    fn begin_step(&mut self) {
        self.optional = false;
        if let Some(step) = self.program.steps.get(self.at).copied() {
            self.at += 1;
            if self.at == self.program.steps.len() && self.round + 1 < self.program.rounds {
                self.at = 0;
                self.round += 1;
            }
            self.expect(step);
        } else {
            self.at += 1;
            let address = layout::own(layout::DONE_PORTS, self.vcpu);
            self.write(Kind::Write, AddressSpace::Pio, address, Width::Long);
        }
    }

    fn expect(&mut self, step: Step) {
        let own = |first| layout::own(first, self.vcpu);
        let (pio, mmio) = (AddressSpace::Pio, AddressSpace::Mmio);
        match step {
            Step::Write(AddressSpace::Pio, width) => self.write(Kind::Write, pio, own(layout::SYNC_PORTS), width),
            Step::Write(AddressSpace::Mmio, width) => self.write(Kind::Write, mmio, own(layout::SYNC_PAGE), width),
            Step::Post(AddressSpace::Pio, width) => self.write(Kind::Posted, pio, own(layout::POSTED_PORTS), width),
            Step::Post(AddressSpace::Mmio, width) => self.write(Kind::Posted, mmio, own(layout::POSTED_PAGE), width),
            Step::Straddle => {
                self.write(Kind::Write, mmio, layout::STRADDLE, Width::Long);
                if let Some(mut part) = self.due.pop_front() {
                    let data = part.data.split_off(2);
                    let behind = Part { kind: Kind::Posted, address: layout::POSTED_PAGE, data, ..part.clone() };
                    self.due.extend([part, behind]);
                }
            }
            Step::Read(AddressSpace::Pio, width) => self.read(pio, own(layout::SYNC_PORTS), width.bytes(), false),
            Step::Read(AddressSpace::Mmio, width) => self.read(mmio, own(layout::SYNC_PAGE), width.bytes(), false),
            Step::WriteString(length) => {
                let address = own(layout::STRING_PORTS);
                self.count = self.count.wrapping_add(1);
                let data = source(self.seed, self.vcpu)[..length.into()].to_vec();
                self.due.push_back(Part { kind: Kind::Write, space: pio, address, data, string: true });
            }
            Step::ReadString(length) => self.read(pio, own(layout::STRING_PORTS), length.into(), true),
            Step::Sum => {
                let address = own(layout::SUM_PORTS);
                self.count = self.count.wrapping_add(1);
                let data = self.sum.to_le_bytes().to_vec();
                self.due.push_back(Part { kind: Kind::Write, space: pio, address, data, string: false });
            }
            Step::Window => {
                self.write(Kind::Write, mmio, layout::WINDOW + layout::slot(self.vcpu), Width::Long);
                self.optional = true;
            }
            Step::Fickle => {
                self.write(Kind::Write, pio, own(layout::FICKLE_PORTS), Width::Long);
                self.optional = true;
            }
            Step::Doorbell(space, _) => {
                self.count = self.count.wrapping_add(1);
                self.bells[usize::from(space == mmio)] += 1;
            }
            Step::Coalesce(_) => {
                self.count = self.count.wrapping_add(1);
                self.coalesced.add(self.count);
            }
            Step::Halt | Step::Spin(_) => {}
        }
    }

    fn write(&mut self, kind: Kind, space: AddressSpace, address: u64, width: Width) {
        self.count = self.count.wrapping_add(1);
        let data = self.count.to_le_bytes()[..width.bytes()].to_vec();
        self.due.push_back(Part { kind, space, address, data, string: false });
    }

    fn read(&mut self, space: AddressSpace, address: u64, length: usize, string: bool) {
        self.count = self.count.wrapping_add(1);
        let mut random = Random::stream(self.seed ^ self.vcpu as u64, self.count.into());
        let data: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
        // A string's last four bytes are added.
        let added = data[length.saturating_sub(4)..].iter().rev().fold(0, |sum, byte| sum << 8 | u32::from(*byte));
        self.sum = self.sum.wrapping_add(added);
        self.due.push_back(Part { kind: Kind::Read, space, address, data, string });
    }

    fn wrong(&self, seen: &Seen<'_>, why: &str) -> Wrong {
        let Seen { kind, access: Access { space, address, length }, data } = seen;
        Wrong(format!(
            "vCPU {} at count {}, round {}: {why}, and a {kind:?} of {length} bytes at {space:?} {address:#x} came, \
             data {data:02x?}",
            self.vcpu, self.count, self.round
        ))
    }
}

impl Part {
    fn is(&self, seen: &Seen<'_>) -> bool {
        let Access { space, address, length } = seen.access;
        let whole = if self.string { length <= self.data.len() } else { length == self.data.len() };
        (self.kind, self.space, self.address) == (seen.kind, space, address)
            && whole
            && (self.kind == Kind::Read || self.data.starts_with(seen.data))
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, space, address, data, .. } = self;
        write!(f, "a {kind:?} of {} bytes at {space:?} {address:#x}, data {data:02x?},", data.len())
    }
}

/// The bytes that a vCPU's string instructions write.
pub(super) fn source(seed: u64, vcpu: usize) -> Vec<u8> {
    let mut random = Random::stream(seed, !(vcpu as u64));
    (0..0x100).map(|_| random.next() as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;

    fn model(steps: &[Step], rounds: u32) -> Model {
        Model::new(1, Program { steps: steps.to_vec(), rounds, last: Last::Done }, SEED)
    }

    fn written(kind: Kind, space: AddressSpace, address: u64, data: &[u8]) -> Seen<'_> {
        Seen { kind, access: Access { space, address, length: data.len() }, data }
    }

    fn port(data: &[u8]) -> Seen<'_> {
        written(Kind::Write, AddressSpace::Pio, layout::own(layout::SYNC_PORTS, 1), data)
    }

    fn done(data: &[u8]) -> Seen<'_> {
        written(Kind::Write, AddressSpace::Pio, layout::own(layout::DONE_PORTS, 1), data)
    }

    fn window(data: &[u8]) -> Seen<'_> {
        written(Kind::Write, AddressSpace::Mmio, layout::WINDOW + 4, data)
    }

    fn take(model: &mut Model, seen: &Seen<'_>) -> Result<Next, Wrong> {
        model.take(seen, || [0, 0])
    }

    const GO: Result<Next, Wrong> = Ok(Next::Go(Vec::new()));
    const OUT: Step = Step::Write(AddressSpace::Pio, Width::Byte);

    #[test]
    fn what_comes_in_order_is_taken_to_the_end() {
        let mut model = model(&[OUT, Step::Spin(3)], 2);
        assert_eq!(take(&mut model, &port(&[1])), GO);
        assert_eq!(take(&mut model, &port(&[2])), GO);
        assert_eq!(take(&mut model, &done(&[3, 0, 0, 0])), Ok(Next::Done));
        assert!(model.is_finished() && take(&mut model, &port(&[4])).is_err());
    }

    #[test]
    fn an_exit_that_is_lost_comes_twice_or_too_early_is_noticed() {
        for wrong in [3, 1] {
            let mut model = model(&[OUT], 9);
            assert_eq!(take(&mut model, &port(&[1])), GO);
            let error = take(&mut model, &port(&[wrong])).unwrap_err();
            assert!(error.0.contains("data [02], was due"), "{error}");
        }
        let mut model = model(&[OUT, Step::Sum], 1);
        let sum = written(Kind::Write, AddressSpace::Pio, layout::own(layout::SUM_PORTS, 1), &[0; 4]);
        assert!(take(&mut model, &sum).is_err());
        assert!(take(&mut self::model(&[OUT], 1), &done(&[1, 0, 0, 0])).is_err());
    }

    #[test]
    fn a_posted_write_is_no_other_write() {
        let mut model = model(&[Step::Post(AddressSpace::Mmio, Width::Word)], 1);
        let address = layout::own(layout::POSTED_PAGE, 1);
        assert!(take(&mut model, &written(Kind::Write, AddressSpace::Mmio, address, &[1, 0])).is_err());
        assert_eq!(take(&mut model, &written(Kind::Posted, AddressSpace::Mmio, address, &[1, 0])), GO);
    }

    #[test]
    fn a_string_comes_in_any_pieces_and_its_end_is_added() {
        let address = layout::own(layout::STRING_PORTS, 1);
        let mut model = model(&[Step::WriteString(3), Step::ReadString(6), Step::Sum], 1);
        let source = source(SEED, 1);
        for piece in [&source[..2], &source[2..3]] {
            assert_eq!(take(&mut model, &written(Kind::Write, AddressSpace::Pio, address, piece)), GO);
        }
        let mut answers = Vec::new();
        for length in [1, 5] {
            let access = Access { space: AddressSpace::Pio, address, length };
            let Ok(Next::Go(answer)) = take(&mut model, &Seen { kind: Kind::Read, access, data: &[] }) else {
                panic!("not taken")
            };
            assert_eq!(answer.len(), length);
            answers.extend(answer);
        }
        let sums = layout::own(layout::SUM_PORTS, 1);
        assert_eq!(take(&mut model, &written(Kind::Write, AddressSpace::Pio, sums, &answers[2..])), GO);
    }

    #[test]
    fn a_write_across_pages_comes_in_two_ways() {
        let mut model = model(&[Step::Straddle], 1);
        let halves = [(Kind::Write, layout::STRADDLE, [1, 0]), (Kind::Posted, layout::POSTED_PAGE, [0, 0])];
        for (kind, address, data) in halves {
            assert_eq!(take(&mut model, &written(kind, AddressSpace::Mmio, address, &data)), GO);
        }
    }

    #[test]
    fn a_write_to_memory_that_did_not_exit_must_be_in_memory() {
        for (memory, found) in [([0, 2], true), ([2, 9], true), ([1, 3], false)] {
            let mut model = model(&[OUT, Step::Window, Step::Sum], 1);
            assert_eq!(take(&mut model, &port(&[1])), GO);
            let sum = written(Kind::Write, AddressSpace::Pio, layout::own(layout::SUM_PORTS, 1), &[0; 4]);
            assert_eq!(model.take(&sum, || memory).is_ok(), found, "{memory:?}");
        }
        let mut model = model(&[Step::Window], 1);
        assert_eq!(model.take(&window(&[1, 0, 0, 0]), || panic!("it exited")), GO);
    }

    #[test]
    fn signals_of_eventfds_are_counted_though_they_do_not_come() {
        let mut model = model(&[Step::Doorbell(AddressSpace::Pio, Width::Byte), OUT], 3);
        for count in [2, 4, 6] {
            assert_eq!(take(&mut model, &port(&[count])), GO);
        }
        assert_eq!(take(&mut model, &done(&[7, 0, 0, 0])), Ok(Next::Done));
        assert_eq!(model.bells(), [3, 0]);
    }

    #[test]
    fn coalesced_writes_are_compared_by_themselves() {
        let mut model = model(&[Step::Coalesce(AddressSpace::Mmio), OUT], 2);
        for count in [2, 4] {
            assert_eq!(take(&mut model, &port(&[count])), GO);
        }
        let coalesced = |values: &[u32]| {
            let mut coalesced = Coalesced::default();
            values.iter().for_each(|value| coalesced.add(*value));
            coalesced
        };
        assert_eq!(model.coalesced(), coalesced(&[3, 1]));
        assert!([&[1][..], &[2, 2]].iter().all(|wrong| model.coalesced() != coalesced(wrong)));
    }
}
