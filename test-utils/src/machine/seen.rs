//! The exits a machine has made, and what they are compared with.

use std::fmt;

use hypervisor::VcpuId;
use vmm_core::StopReason;

use super::Io;

/// An exit that was seen, with its data: what was written, or what the device answered.
#[derive(Clone, PartialEq, Eq)]
pub enum Seen {
    /// A port was read.
    In(u16, Vec<u8>),
    /// A port was written.
    Out(u16, Vec<u8>),
    /// Memory that is no RAM was read.
    Load(u64, Vec<u8>),
    /// Memory that is no RAM was written.
    Store(u64, Vec<u8>),
    /// Hyper-V was called, with this code and these parameters.
    HypervCall(u64, [u64; 2]),
    /// Hyper-V's interrupt controller was set up, by this MSR.
    HypervSynic(u32),
}

impl From<&Io<'_>> for Seen {
    fn from(io: &Io<'_>) -> Self {
        match io {
            Io::In(port, data) => Self::In(*port, data.to_vec()),
            Io::Out(port, data) => Self::Out(*port, data.to_vec()),
            Io::Load(address, data) => Self::Load(*address, data.to_vec()),
            Io::Store(address, data) => Self::Store(*address, data.to_vec()),
        }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, address, data): (_, u64, _) = match self {
            Self::In(port, data) => ("in", (*port).into(), data),
            Self::Out(port, data) => ("out", (*port).into(), data),
            Self::Load(address, data) => ("load", *address, data),
            Self::Store(address, data) => ("store", *address, data),
            Self::HypervCall(input, [a, b]) => return write!(f, "hypercall {input:#x} {a:#x} {b:#x}"),
            Self::HypervSynic(msr) => return write!(f, "synic {msr:#x}"),
        };
        write!(f, "{name} {address:#x} {data:02x?}")
    }
}

impl fmt::Debug for Seen {
    /// As it is displayed, so that a failed assertion can be read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a machine came to its end.
#[derive(Debug)]
pub enum End {
    /// The guest said that it was done, with this in AL.
    Done(u8),
    /// A vCPU stopped for good.
    Stopped(VcpuId, StopReason),
}

/// A machine's run, from its first instruction to its end.
pub struct Run {
    /// What was seen, in order. The accesses of one vCPU are in its order.
    pub exits: Vec<(VcpuId, Seen)>,
    /// How it ended.
    pub end: End,
}

impl fmt::Debug for Run {
    /// A line an exit, and one for the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}{:?}", listed(&self.exits), self.end)
    }
}

/// A line an exit.
pub(super) fn listed(exits: &[(VcpuId, Seen)]) -> String {
    exits.iter().map(|(vcpu, seen)| format!("vCPU {vcpu}: {seen}\n")).collect()
}

impl Run {
    /// The exits, whichever vCPU made them.
    pub fn exits(&self) -> Vec<Seen> {
        self.exits.iter().map(|(_, seen)| seen.clone()).collect()
    }

    /// The exits of one vCPU.
    pub fn exits_of(&self, vcpu: VcpuId) -> Vec<Seen> {
        self.exits.iter().filter(|(by, _)| *by == vcpu).map(|(_, seen)| seen.clone()).collect()
    }

    /// The guest was done, with `value` in AL.
    ///
    /// # Panics
    ///
    /// If it ended otherwise; the message has the exits.
    #[track_caller]
    pub fn assert_done(&self, value: u8) {
        assert!(matches!(self.end, End::Done(al) if al == value), "not done with {value:#x}: {self:?}");
    }

    /// These were the exits, and no others, in this order.
    ///
    /// # Panics
    ///
    /// If they were not; the message has both, side by side, and marks the first that differ.
    #[track_caller]
    pub fn assert_exits(&self, expected: &[Seen]) {
        let seen = self.exits();
        assert!(seen == expected, "other exits than expected:\n{}", side_by_side(&seen, expected));
    }

    /// These exits were made in this order, among others.
    ///
    /// # Panics
    ///
    /// If not; the message has the first that was not made, and all that were.
    #[track_caller]
    pub fn assert_exits_in_order(&self, expected: &[Seen]) {
        let seen = self.exits();
        let mut rest = seen.iter();
        for wanted in expected {
            assert!(rest.any(|exit| exit == wanted), "no `{wanted}` where it was expected, but {seen:#?}");
        }
    }
}

/// Two lists of exits as a table; `>` is before the first line in which they differ.
fn side_by_side(seen: &[Seen], expected: &[Seen]) -> String {
    let differ = (0..).find(|index| seen.get(*index) != expected.get(*index)).unwrap_or(0);
    let cell = |list: &[Seen], index| list.get(index).map_or("-".into(), Seen::to_string);
    let line = |index| {
        let mark = if index == differ { '>' } else { ' ' };
        format!("{mark} {:<40} {}\n", cell(seen, index), cell(expected, index))
    };
    let header = format!("  {:<40} {}\n", "seen", "expected");
    (0..seen.len().max(expected.len())).fold(header, |table, index| table + &line(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(exits: impl IntoIterator<Item = Seen>) -> Run {
        Run { exits: exits.into_iter().map(|seen| (VcpuId(0), seen)).collect(), end: End::Done(0) }
    }

    fn message(assertion: impl FnOnce()) -> String {
        *std::panic::catch_unwind(std::panic::AssertUnwindSafe(assertion)).unwrap_err().downcast().unwrap()
    }

    #[test]
    fn a_failed_assertion_shows_both_lists_and_marks_the_first_difference() {
        let seen = run([Seen::Out(0x40, vec![3]), Seen::In(0x42, vec![1, 0xff])]);
        let text = message(move || seen.assert_exits(&[Seen::Out(0x40, vec![3]), Seen::In(0x42, vec![2])]));
        assert!(text.contains("\n  out 0x40 [03] "), "{text}");
        assert!(text.contains("\n> in 0x42 [01, ff] ") && text.ends_with(" in 0x42 [02]\n"), "{text}");
    }

    #[test]
    fn a_list_that_is_too_short_differs_at_its_end() {
        let text = message(|| run([]).assert_exits(&[Seen::Store(0x9000, vec![1])]));
        assert!(text.contains("\n> - ") && text.contains("store 0x9000 [01]"), "{text}");
    }

    #[test]
    fn exits_in_order_may_have_others_between_them() {
        let exits = || [1, 2, 3].map(|port| Seen::Out(port, vec![0]));
        run(exits()).assert_exits_in_order(&[Seen::Out(1, vec![0]), Seen::Out(3, vec![0])]);
        let text = message(move || run(exits()).assert_exits_in_order(&[Seen::Out(3, vec![0]), Seen::Out(1, vec![0])]));
        assert!(text.starts_with("no `out 0x1 [00]`"), "{text}");
    }
}
