use std::fmt::Write;

use super::*;
use crate::VcpuId;
use crate::mock::irq::time_source::Clock;
use crate::mock::reset;

/// The document with the table.
const DOCUMENT: &str = include_str!("../../../../../docs/mock-cpu.md");

struct Machine {
    msrs: Msrs,
    sregs: kvm_sregs,
    cpuid: Vec<kvm_cpuid_entry2>,
    irqs: Irqchip,
    inbox: EventInbox,
}

impl Machine {
    fn new() -> Self {
        let id = VcpuId(0);
        Self {
            msrs: Msrs::default(),
            sregs: reset::sregs(id),
            cpuid: cpuid::supported(),
            irqs: Irqchip::new(Clock::Virtual).unwrap(),
            inbox: EventInbox::new(id).unwrap(),
        }
    }

    fn get(&self, index: u32, by_guest: bool) -> Option<u64> {
        let Self { msrs, sregs, cpuid, irqs, inbox } = self;
        MsrAccess { cpuid, irqs, inbox, by_guest }.get(index, msrs, sregs)
    }

    fn set(&mut self, index: u32, value: u64, by_guest: bool) -> bool {
        let Self { msrs, sregs, cpuid, irqs, inbox } = self;
        MsrAccess { cpuid, irqs, inbox, by_guest }.set(index, value, msrs, sregs).is_some()
    }

    fn read(&self, index: u32) -> Option<u64> {
        self.get(index, true)
    }

    fn write(&mut self, index: u32, value: u64) -> bool {
        self.set(index, value, true)
    }
}

fn takes(rule: Rule) -> String {
    match rule {
        Rule::Any => "any".into(),
        Rule::Bits(0) => "0".into(),
        Rule::Bits(LOW) => "bits 0 to 31".into(),
        Rule::Bits(bits) => format!("bits {bits:#x}"),
        Rule::Lock(bits) => format!("bits {bits:#x}, until bit 0 is set"),
        Rule::Partly(bits, kept) => format!("bits {bits:#x}; {kept:#x} stay"),
        Rule::Canonical => "canonical addresses".into(),
        Rule::ReadOnly => "nothing".into(),
        Rule::Ignores => "anything, without effect".into(),
        Rule::Pat => "memory types 0, 1, 4 to 7".into(),
        Rule::FixedMtrr => "memory types 0, 1, 4 to 6".into(),
        Rule::VariableMtrr => "a type and a physical page; a mask and bit 11".into(),
        Rule::MtrrDefault => "a type, bits 10 and 11".into(),
        Rule::ApicBase => "a physical page, bits 8 and 11".into(),
        Rule::Efer => "bits 0, 8, 11 as offered; bit 8 without paging".into(),
    }
}

/// The table's rows, as the document should have them.
fn rows() -> String {
    let mut rows = String::new();
    for row in TABLE {
        let (first, last) = (row.indices.start(), row.indices.end());
        let indices = if first == last { format!("{first:#x}") } else { format!("{first:#x} to {last:#x}") };
        let offered_by = row.offered_by.map_or("-", |feature| feature.name);
        let reset = match row.place {
            Place::ApicBase => "0xfee00800, and bit 8 for vCPU 0".into(),
            _ => format!("{:#x}", row.reset),
        };
        writeln!(rows, "| {indices} | {} | {reset} | {} | {offered_by} |", row.name, takes(row.rule)).unwrap();
    }
    rows
}

#[test]
fn the_document_names_the_msrs_that_there_are() {
    let rows = rows();
    assert!(DOCUMENT.contains(&rows), "the table in docs/mock-cpu.md should be\n{rows}");
}

#[test]
fn each_msr_is_in_one_row_and_has_its_value_after_reset() {
    let machine = Machine::new();
    let indices = indices();
    assert!(indices.is_sorted_by(|one, other| one < other), "{indices:x?}");
    for index in indices {
        let row = find(index).unwrap();
        let reset = if let Place::ApicBase = row.place { 0xfee0_0900 } else { row.reset };
        assert_eq!(machine.read(index), Some(reset), "{}", row.name);
    }
    assert_eq!(machine.read(0x1d9), None);
}

#[test]
fn a_value_with_reserved_bits_is_refused() {
    const NOT_CANONICAL: u64 = 1 << 47;
    for (index, good, bad) in [
        (0x1b, 0xfee0_0800, 0xfee0_0801),
        (0x1b, 0x3fff_ffff_f900, 1 << 46 | 0x900),
        (0x1b, 0xfee0_0900, 0xfee0_0d00),
        (0x140, 0, 1),
        (0x174, LOW, LOW + 1),
        (0x175, u64::MAX << 47, NOT_CANONICAL),
        (0x17a, 7, 8),
        (0x1a0, 1, 1 << 18),
        (0x1a0, 0, 1 << 34),
        (0x200, 0x8000_0006, 0x8000_0002),
        (0x200, 6, 0x106),
        (0x20f, 0x3fff_8000_0800, 0x8000_0801),
        (0x201, 0, 1 << 46),
        (0x250, 0x0606_0606_0606_0606, 0x0206_0606_0606_0606),
        (0x26f, 0x0001_0405_0601_0004, 7),
        (0x277, 0x0007_0106_0007_0406, 2),
        (0x277, 0x0707_0707_0707_0707, 0x0800_0000_0000_0000),
        (0x2ff, 0xc06, 0x1006),
        (0x2ff, 0, 2),
        (0xc000_0080, 0xd01, 2),
        (0xc000_0080, 1, 1 << 12),
        (0xc000_0082, 0xffff_8000_0000_0000, NOT_CANONICAL),
        (0xc000_0084, 0x4_7700, 1 << 32),
        (0xc000_0100, 0x7fff_ffff_ffff, NOT_CANONICAL),
        (0xc000_0101, 0, NOT_CANONICAL),
        (0xc000_0102, 0, NOT_CANONICAL),
        (0xc000_0103, LOW, 1 << 32),
    ] {
        for by_guest in [false, true] {
            let mut machine = Machine::new();
            assert!(machine.set(index, good, by_guest), "{index:#x} takes {good:#x}");
            let kept = machine.get(index, by_guest);
            assert!(!machine.set(index, bad, by_guest), "{index:#x} refuses {bad:#x}");
            assert_eq!(machine.get(index, by_guest), kept, "{index:#x}");
        }
    }
}

#[test]
fn what_is_read_only_or_ignored_stays() {
    let mut machine = Machine::new();
    for index in [0x17, 0xce, 0xfe, 0x179] {
        let value = machine.read(index).unwrap();
        assert!(!machine.write(index, value), "{index:#x}");
        assert!(machine.set(index, value, false), "{index:#x}: what was got can be set");
        assert!(!machine.set(index, value ^ 1, false), "{index:#x}");
    }
    assert!(machine.write(0x8b, 0));
    assert_eq!(machine.read(0x8b), Some(MICROCODE));
    assert!(machine.write(0x1a0, 0));
    assert_eq!(machine.read(0x1a0), Some(0x1800), "no branch trace, no event sampling");
}

#[test]
fn a_lock_ends_the_writes_of_the_guest() {
    let mut machine = Machine::new();
    assert!(machine.write(0x3a, 0) && machine.write(0x3a, 1));
    assert!(!machine.write(0x3a, 1) && !machine.write(0x3a, 0));
    assert!(machine.set(0x3a, 0, false));
}

#[test]
fn what_cpuid_does_not_offer_is_not_there_for_the_guest() {
    let rows = TABLE.iter().filter(|row| row.offered_by.is_some());
    assert!(rows.clone().count() > 5);
    for index in rows.map(|row| *row.indices.start()) {
        let mut machine = Machine::new();
        machine.cpuid = vec![kvm_cpuid_entry2::default()];
        assert_eq!((machine.read(index), machine.write(index, 0)), (None, false), "{index:#x}");
        assert!(machine.get(index, false).is_some(), "{index:#x}: from outside it is");
        machine.cpuid = Vec::new();
        assert!(machine.read(index).is_some(), "{index:#x}: on the default processor");
    }
    let mut machine = Machine::new();
    machine.cpuid = vec![kvm_cpuid_entry2::default()];
    for bit in [0, 8, 11] {
        assert!(!machine.write(0xc000_0080, 1 << bit), "bit {bit} of EFER");
        assert!(machine.set(0xc000_0080, 1 << bit, false), "bit {bit} of EFER");
    }
}

#[test]
fn long_mode_is_not_turned_on_under_paging() {
    let mut machine = Machine::new();
    machine.sregs.cr0 |= 1 << 31;
    machine.sregs.efer = 0x500;
    assert!(!machine.write(0xc000_0080, 0), "off");
    assert!(machine.write(0xc000_0080, 0x901));
    assert_eq!(machine.read(0xc000_0080), Some(0xd01), "LMA stays");
}

#[test]
fn the_time_stamp_and_its_adjustment_move_together() {
    let mut machine = Machine::new();
    machine.inbox.count(100);
    assert_eq!(machine.read(0x10), Some(100));
    assert!(machine.write(0x10, 1_000_100));
    assert_eq!((machine.read(0x10), machine.read(0x3b)), (Some(1_000_100), Some(1_000_000)));
    assert!(machine.write(0x3b, 0));
    machine.inbox.count(1);
    assert_eq!(machine.read(0x10), Some(101));
}

#[test]
fn the_deadline_is_there_in_its_mode_alone() {
    let mut machine = Machine::new();
    assert!(machine.write(0x6e0, 500));
    assert_eq!(machine.read(0x6e0), Some(0));
    for (register, value) in [(0xf0, 0x1ff_u32), (0x320, 0x4_0041)] {
        machine.inbox.write(0xfee0_0000 + register, &value.to_le_bytes(), 0);
    }
    assert!(machine.write(0x6e0, 500));
    assert_eq!((machine.read(0x6e0), machine.inbox.deadline()), (Some(500), 500));
    machine.inbox.pass(500);
    assert_eq!(machine.read(0x6e0), Some(0));
}
