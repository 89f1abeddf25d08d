//! How many of each kind ran: counted in the plugin, written to a file that the soak has opened, read by the soak.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Exits,
    Posted,
    Coalesced,
    Landed,
    Bells,
    Pauses,
    Registers,
    Remaps,
    Ranges,
    EventIrqs,
    PulseIrqs,
    Connections,
}

impl Count {
    pub(super) const ALL: [Self; 12] = [
        Self::Exits,
        Self::Posted,
        Self::Coalesced,
        Self::Landed,
        Self::Bells,
        Self::Pauses,
        Self::Registers,
        Self::Remaps,
        Self::Ranges,
        Self::EventIrqs,
        Self::PulseIrqs,
        Self::Connections,
    ];

    /// What people call it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Exits => "exits",
            Self::Posted => "posted writes",
            Self::Coalesced => "coalesced writes",
            Self::Landed => "writes to memory",
            Self::Bells => "ioeventfd signals",
            Self::Pauses => "pauses",
            Self::Registers => "register sets",
            Self::Remaps => "memory remaps",
            Self::Ranges => "range changes",
            Self::EventIrqs => "irqfd interrupts",
            Self::PulseIrqs => "line interrupts",
            Self::Connections => "connections",
        }
    }
}

/// A number for each kind.
pub(super) type Numbers = [u64; Count::ALL.len()];

/// The plugin's counters.
#[derive(Debug, Default)]
pub(super) struct Counters([AtomicU64; Count::ALL.len()]);

impl Counters {
    pub(super) fn add(&self, count: Count, more: u64) {
        self.0[count as usize].fetch_add(more, Ordering::Relaxed);
    }

    fn numbers(&self) -> Numbers {
        self.0.each_ref().map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// The file. It has the numbers as text of a fixed length, and then what the plugin has to complain about.
pub(super) struct Sheet(File);

/// Digits of the longest number, and the space behind it.
const FIELD: usize = 21;

impl Sheet {
    pub(super) fn new(file: File) -> Self {
        Self(file)
    }

    pub(super) fn write(&self, counters: &Counters) -> io::Result<()> {
        let text: String = counters.numbers().iter().map(|number| format!("{number:<20} ")).collect();
        self.0.write_all_at(text.as_bytes(), 0)
    }

    pub(super) fn complain(&self, complaint: &str) -> io::Result<()> {
        self.0.write_all_at(complaint.as_bytes(), (FIELD * Count::ALL.len()) as u64)
    }

    /// The numbers, zeros if there are none yet, and the complaint.
    pub(super) fn read(&self) -> io::Result<(Numbers, Option<String>)> {
        let mut bytes = vec![0; self.0.metadata()?.len() as usize];
        self.0.read_exact_at(&mut bytes, 0)?;
        let (numbers, complaint) = bytes.split_at(bytes.len().min(FIELD * Count::ALL.len()));
        let mut read = Numbers::default();
        for (number, field) in read.iter_mut().zip(numbers.chunks(FIELD)) {
            *number = String::from_utf8_lossy(field).trim().parse().unwrap_or_default();
        }
        let complaint = String::from_utf8_lossy(complaint).into_owned();
        Ok((read, Some(complaint).filter(|complaint| !complaint.is_empty())))
    }

    /// Makes it empty.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.0.set_len(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_cleared() {
        let sheet = Sheet::new(tempfile::tempfile().unwrap());
        assert_eq!(sheet.read().unwrap(), (Numbers::default(), None));
        let counters = Counters::default();
        for (count, more) in Count::ALL.into_iter().zip([u64::MAX, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]) {
            counters.add(count, more);
        }
        sheet.write(&counters).unwrap();
        sheet.complain("no\nend").unwrap();
        assert_eq!(sheet.read().unwrap(), ([u64::MAX, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], Some("no\nend".into())));
        sheet.clear().unwrap();
        assert_eq!(sheet.read().unwrap(), (Numbers::default(), None));
    }
}
