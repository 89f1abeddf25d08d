//! Generated page tables and accesses.

use hypervisor::Hypervisor;
use hypervisor::mock::Mock;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use test_utils::kvm::kvm_or_skip;

use crate::machine::{Machine, Outcome, PAGES, POOL, RAM_LEN, ROOT, offers};
use crate::model::{
    ACCESSED, Access, Controls, DIRTY, Kind, LARGE, Mode, NX, PRESENT, PageFault, USER, WRITABLE, walk,
};

/// A path of entries from the root to a page, and what is done there.
#[derive(Clone, Debug)]
struct Mapping {
    /// Few, so that mappings share tables.
    indices: [u8; 4],
    /// What decides the entries' bits.
    entries: [u64; 4],
    /// What decides the page.
    page: u64,
}

#[derive(Clone, Copy, Debug)]
struct Touch {
    mapping: u8,
    offset: u32,
    kind: Kind,
    user: bool,
    ac: bool,
}

#[derive(Clone, Debug)]
struct Case {
    controls: Controls,
    mappings: Vec<Mapping>,
    touches: Vec<Touch>,
}

fn case(modes: &'static [Mode]) -> impl Strategy<Value = Case> {
    let controls = (select(modes), any::<[bool; 6]>()).prop_map(|(mode, [wp, pse, smep, smap, nxe, pge])| Controls {
        mode,
        wp,
        pse,
        smep,
        smap,
        nxe,
        pge,
        huge: true,
    });
    let mapping = (any::<[u8; 4]>(), any::<[u64; 4]>(), any::<u64>()).prop_map(|(indices, entries, page)| Mapping {
        indices,
        entries,
        page,
    });
    let kind = select(&[Kind::Read, Kind::Write, Kind::Fetch][..]);
    let touch = (any::<u8>(), any::<u32>(), kind, any::<bool>(), any::<bool>())
        .prop_map(|(mapping, offset, kind, user, ac)| Touch { mapping, offset, kind, user, ac });
    (controls, vec(mapping, 1..5), vec(touch, 1..12)).prop_map(|(controls, mappings, touches)| Case {
        controls,
        mappings,
        touches,
    })
}

/// The shifts of the levels.
fn shifts(mode: Mode) -> &'static [u32] {
    match mode {
        Mode::TwoLevel => &[22, 12],
        Mode::Pae => &[30, 21, 12],
        Mode::FourLevel => &[39, 30, 21, 12],
    }
}

/// Writes the entries of `mapping`, and returns the linear address of its page. Tables are where the indices say, so that
/// mappings with the same beginning share them.
fn map(machine: &Machine, controls: Controls, number: usize, mapping: &Mapping) -> u64 {
    let shifts = shifts(controls.mode);
    let size = machine.entry_size();
    let (mut linear, mut table, mut path) = (0, ROOT, 0);
    for (level, (shift, (index, bits))) in (0..).zip(shifts.iter().zip(mapping.indices.iter().zip(mapping.entries))) {
        let last = level + 1 == shifts.len();
        // The root's first entry is the guest's own.
        let index = if level == 0 { 1 + u64::from(index % 3) } else { u64::from(index % 4) };
        linear |= index << shift;
        path = path * 4 + index;
        let next = POOL + 0x1000 * (path % 64) + 0x4_0000 * level as u64 % 0xc_0000;
        let entry = entry(controls, level, last, bits, next, mapping.page);
        // A mapping that shares an entry leaves it as it is.
        if machine.read_entry(table + size * index) == 0 || last {
            machine.write_entry(table + size * index, entry, size);
        }
        if machine.read_entry(table + size * index) & PRESENT == 0 {
            machine.write_entry(table + size * index, entry & !PRESENT, size);
        }
        table = next;
    }
    let _ = number;
    if controls.mode == Mode::FourLevel && linear >> 47 != 0 { linear | 0xffff << 48 } else { linear }
}

fn entry(controls: Controls, level: usize, last: bool, bits: u64, next: u64, page: u64) -> u64 {
    let one_in = |n: u64, shift: u32| (bits >> shift).is_multiple_of(n);
    let flag = |set: bool, flag: u64| if set { flag } else { 0 };
    let wide = controls.mode != Mode::TwoLevel;
    if controls.mode == Mode::Pae && level == 0 {
        return next | flag(!one_in(16, 0), PRESENT) | bits & 0xe00;
    }
    let large = !last && one_in(4, 8);
    let address = match (last || large, page % 8) {
        (false, _) => next,
        // A page of RAM, the right page of a large one, or any.
        (true, 0..6) if last => PAGES + (page >> 8 << 12) % (RAM_LEN - PAGES),
        (true, 0..6) => 0,
        (true, _) if wide => page & 0x3fff_fff0_0000,
        (true, _) => page & 0x003f_0000,
    };
    let ignored = bits & if wide { 0x07f0_0000_0000_0e18 } else { 0xe18 };
    let ignored = if controls.mode == Mode::Pae { ignored & 0xfff } else { ignored };
    address
        | ignored
        | flag(!one_in(16, 0), PRESENT)
        | flag(!one_in(4, 4), WRITABLE)
        | flag(!one_in(4, 12), USER)
        | flag(large || last && one_in(2, 16), LARGE)
        | flag(one_in(2, 20), ACCESSED)
        | flag(one_in(2, 22), DIRTY)
        | flag(one_in(2, 24), 1 << 8)
        | flag(wide && one_in(8, 28), NX)
        | flag(wide && one_in(32, 32), 1 << (46 + (bits >> 40) % 6))
        | flag(large && one_in(16, 48), 1 << (13 + (bits >> 52) % 8))
}

/// Runs `case`, and says what is not as the model has it; `shadows` where page tables are KVM's to shadow.
fn check(machine: &mut Machine, case: &Case, shadows: bool) -> Result<(), TestCaseError> {
    let controls = case.controls;
    machine.prepare(controls);
    let addresses: Vec<u64> =
        case.mappings.iter().enumerate().map(|(number, mapping)| map(machine, controls, number, mapping)).collect();
    prop_assert_eq!(machine.load_root(), Outcome::Done);
    for touch in &case.touches {
        let page = addresses[usize::from(touch.mapping) % addresses.len()];
        // Within the smallest page, or anywhere in a large one.
        let offset = if touch.offset.is_multiple_of(4) { touch.offset >> 2 & 0x1f_fffe } else { touch.offset & 0xffe };
        let linear = page | u64::from(offset);
        let access = Access { linear, kind: touch.kind, user: touch.user, ac: touch.ac };
        let expected = walk(controls, ROOT, access, |address| read(machine, address));
        if let Ok(physical) = expected.result
            && is_own(physical)
            && access.kind != Kind::Read
        {
            // It would change the tables or the guest's own code.
            continue;
        }
        let outcome = machine.access(access);
        let wanted = match expected.result {
            Err(PageFault(code)) => Outcome::PageFault { code, address: linear },
            Ok(physical) if physical < RAM_LEN => Outcome::Done,
            Ok(_) if access.kind == Kind::Fetch => Outcome::Ended,
            Ok(physical) => Outcome::Outside(physical),
        };
        prop_assert_eq!(outcome, wanted, "{:x?} by {:x?}", access, expected.used);
        for (level, used) in expected.used.iter().enumerate() {
            let now = read(machine, used.address);
            let is_last = level + 1 == expected.used.len();
            let set = match expected.result {
                _ if !used.flags => 0,
                // The manual leaves open whether a walk that faults marks what it has used. Neither backend does.
                Err(_) => 0,
                // KVM's shadow of a page that cannot be written may leave the dirty flag out where CR0.WP is clear.
                Ok(_) if is_last && access.kind == Kind::Write && shadows && !controls.wp && !access.user => {
                    ACCESSED | now & DIRTY
                }
                Ok(_) if is_last && access.kind == Kind::Write => ACCESSED | DIRTY,
                Ok(_) => ACCESSED,
            };
            prop_assert_eq!(now, used.value | set, "entry {:#x} after {:x?}", used.address, access);
        }
    }
    Ok(())
}

/// Whether the guest's own code or page tables are there.
fn is_own(physical: u64) -> bool {
    physical < PAGES
}

fn read(machine: &Machine, address: u64) -> u64 {
    if address + 8 <= RAM_LEN { machine.read_entry(address) } else { 0 }
}

/// As many cases as `PROPTEST_CASES` says, or `cases`.
fn config(cases: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(cases);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

const ALL: &[Mode] = &[Mode::TwoLevel, Mode::Pae, Mode::FourLevel];

/// A case without what the backend does not offer.
fn offered(hypervisor: &dyn Hypervisor, mut case: Case) -> Case {
    case.controls.smep &= offers(hypervisor, 7, 1, 7);
    case.controls.smap &= offers(hypervisor, 7, 1, 20);
    case.controls.huge &= offers(hypervisor, 0x8000_0001, 3, 26);
    case
}

#[test]
fn the_mock_translates_as_the_model_does() {
    let mock = Mock::guest_code();
    let machine = std::cell::RefCell::new(Machine::new(&mock));
    proptest!(config(2_000), |(case in case(ALL))| {
        check(&mut machine.borrow_mut(), &offered(&mock, case), false)?;
    });
}

#[test]
fn kvm_translates_as_the_model_does() {
    let Some(kvm) = kvm_or_skip("kvm_translates_as_the_model_does") else { return };
    proptest!(config(200), |(case in case(&[Mode::FourLevel]))| {
        // KVM does not see that a test has changed page tables by its own mapping: a new VM each time.
        check(&mut Machine::new(&kvm), &offered(&kvm, case), true)?;
    });
}
