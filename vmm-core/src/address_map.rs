//! Whose each port and each unbacked address is.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use hypervisor::AddressSpace;
use parking_lot::RwLock;

use crate::error::{Error, ReservationProblem, Result};
use crate::owner::OwnerId;

/// Reserved ranges of both address spaces. No two overlap.
#[derive(Debug, Default)]
pub struct AddressMap {
    ports: RwLock<Ranges>,
    mmio: RwLock<Ranges>,
    /// Counts the changes.
    version: AtomicU64,
}

/// Ranges by their first address.
type Ranges = BTreeMap<u64, Range>;

#[derive(Clone, Copy, Debug)]
struct Range {
    last: u64,
    claim: Claim,
}

/// Whose a range is, and how its accesses are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub owner: OwnerId,
    /// How.
    pub service: Service,
}

/// How the accesses to a range are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// The vCPU waits for its owner at each read and write.
    Synchronous,
    /// Writes are posted: the owner is told, and the vCPU runs on. Reads are nobody's.
    PostedWrites,
}

impl AddressMap {
    /// Gives the `len` bytes from `start` on to the owner of `claim`.
    ///
    /// # Errors
    ///
    /// [`Error::Reservation`]: the range is empty, its end does not fit in 64 bits, or it overlaps another.
    pub fn reserve(&self, space: AddressSpace, start: u64, len: u64, claim: Claim) -> Result<()> {
        let error = |problem| Error::Reservation { space, start, len, problem };
        if len == 0 {
            return Err(error(ReservationProblem::Empty));
        }
        let end = start.checked_add(len).ok_or_else(|| error(ReservationProblem::Overflow))?;
        // A range that is not empty ends above 0.
        let last = end.saturating_sub(1);
        let mut ranges = self.ranges(space).write();
        // The only range that can reach into this one is the last that begins at or before its end.
        let neighbour = ranges.range(..=last).next_back();
        if let Some((first, range)) = neighbour.filter(|(_, range)| range.last >= start) {
            return Err(error(ReservationProblem::Overlap { first: *first, last: range.last }));
        }
        ranges.insert(start, Range { last, claim });
        self.version.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// Ends `owner`'s reservation that begins exactly at `start`.
    ///
    /// # Errors
    ///
    /// [`Error::Reservation`]: there is none.
    pub fn release(&self, space: AddressSpace, start: u64, owner: OwnerId) -> Result<()> {
        let mut ranges = self.ranges(space).write();
        if ranges.get(&start).is_some_and(|range| range.claim.owner == owner) {
            ranges.remove(&start);
            self.version.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        Err(Error::Reservation { space, start, len: 0, problem: ReservationProblem::NotReserved })
    }

    /// Who gets an access whose first byte is at `address`, and how it is served.
    pub fn claim_on(&self, space: AddressSpace, address: u64) -> Option<Claim> {
        self.range_around(space, address).map(|(_, _, claim)| claim)
    }

    /// The reserved range that `address` lies in: its first address, its last one, and whose it is.
    pub(crate) fn range_around(&self, space: AddressSpace, address: u64) -> Option<(u64, u64, Claim)> {
        let ranges = self.ranges(space).read();
        let (first, range) = ranges.range(..=address).next_back()?;
        (range.last >= address).then_some((*first, range.last, range.claim))
    }

    /// The last reservation that has some of the addresses from `first` to `last`: its first address and its last one.
    pub fn overlapping(&self, space: AddressSpace, first: u64, last: u64) -> Option<(u64, u64)> {
        let ranges = self.ranges(space).read();
        let (start, range) = ranges.range(..=last).next_back()?;
        (range.last >= first).then_some((*start, range.last))
    }

    /// Another number after each change.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn ranges(&self, space: AddressSpace) -> &RwLock<Ranges> {
        match space {
            AddressSpace::Pio => &self.ports,
            AddressSpace::Mmio => &self.mmio,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: OwnerId = OwnerId::new(0);
    const B: OwnerId = OwnerId::new(1);

    fn claim(owner: OwnerId) -> Claim {
        Claim { owner, service: Service::Synchronous }
    }

    fn owner_of(map: &AddressMap, space: AddressSpace, address: u64) -> Option<OwnerId> {
        map.claim_on(space, address).map(|claim| claim.owner)
    }

    fn problem(result: Result<()>) -> Option<ReservationProblem> {
        match result {
            Ok(()) => None,
            Err(Error::Reservation { problem, .. }) => Some(problem),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn ports_and_memory_are_apart() {
        let map = AddressMap::default();
        map.reserve(AddressSpace::Pio, 0x60, 8, claim(A)).unwrap();
        map.reserve(AddressSpace::Mmio, 0x60, 8, claim(B)).unwrap();
        assert_eq!(owner_of(&map, AddressSpace::Pio, 0x67), Some(A));
        assert_eq!(owner_of(&map, AddressSpace::Mmio, 0x67), Some(B));
        assert_eq!(owner_of(&map, AddressSpace::Pio, 0x68), None);
        assert_eq!(owner_of(&map, AddressSpace::Pio, 0x5f), None);
    }

    #[test]
    fn an_overlap_in_the_last_byte_is_one() {
        let map = AddressMap::default();
        map.reserve(AddressSpace::Mmio, 0x1000, 0x10, claim(A)).unwrap();
        let overlap = Some(ReservationProblem::Overlap { first: 0x1000, last: 0x100f });
        assert_eq!(problem(map.reserve(AddressSpace::Mmio, 0x100f, 1, claim(A))), overlap);
        assert_eq!(problem(map.reserve(AddressSpace::Mmio, 0xff0, 0x11, claim(A))), overlap);
        map.reserve(AddressSpace::Mmio, 0x1010, 1, claim(A)).unwrap();
        map.reserve(AddressSpace::Mmio, 0xff0, 0x10, claim(A)).unwrap();
    }

    #[test]
    fn a_range_is_not_empty_and_its_end_fits_64_bits() {
        let map = AddressMap::default();
        assert_eq!(problem(map.reserve(AddressSpace::Mmio, 0, 0, claim(A))), Some(ReservationProblem::Empty));
        assert_eq!(problem(map.reserve(AddressSpace::Mmio, u64::MAX, 1, claim(A))), Some(ReservationProblem::Overflow));
        map.reserve(AddressSpace::Mmio, 0, u64::MAX, claim(A)).unwrap();
        assert_eq!(owner_of(&map, AddressSpace::Mmio, u64::MAX), None);
    }

    #[test]
    fn an_owner_ends_only_its_own_reservation_and_only_at_its_start() {
        let map = AddressMap::default();
        map.reserve(AddressSpace::Pio, 0x60, 8, claim(A)).unwrap();
        assert_eq!(problem(map.release(AddressSpace::Pio, 0x60, B)), Some(ReservationProblem::NotReserved));
        assert_eq!(problem(map.release(AddressSpace::Pio, 0x61, A)), Some(ReservationProblem::NotReserved));
        map.release(AddressSpace::Pio, 0x60, A).unwrap();
        assert_eq!(owner_of(&map, AddressSpace::Pio, 0x60), None);
        assert_eq!(problem(map.release(AddressSpace::Pio, 0x60, A)), Some(ReservationProblem::NotReserved));
    }

    #[test]
    fn a_refusal_names_the_range_and_what_it_overlaps() {
        let map = AddressMap::default();
        map.reserve(AddressSpace::Pio, 0x10, 4, claim(A)).unwrap();
        let text = |result: Result<()>| result.unwrap_err().to_string();
        assert_eq!(text(map.reserve(AddressSpace::Pio, 0x10, 4, claim(A))), "ports 0x10-0x13 overlap 0x10-0x13");
        assert_eq!(text(map.reserve(AddressSpace::Pio, 0, 0x100, claim(B))), "ports 0x0-0xff overlap 0x10-0x13");
        assert_eq!(
            text(map.release(AddressSpace::Mmio, 0x10, A)),
            "addresses from 0x10 on cannot be released: no reservation of this owner begins there"
        );
        assert_eq!(
            text(map.reserve(AddressSpace::Mmio, u64::MAX, 2, claim(A))),
            "addresses 0xffffffffffffffff-0xffffffffffffffff cannot be reserved: the end exceeds 64 bits"
        );
    }

    #[derive(Clone, Debug)]
    enum Op {
        Reserve { start: u64, len: u64, owner: OwnerId },
        Release { start: u64, owner: OwnerId },
    }

    /// Addresses crowd at both ends of the space, so that neighbours, overlaps and overflows are common.
    fn address() -> impl Strategy<Value = u64> {
        prop_oneof![0..64_u64, (u64::MAX - 64)..=u64::MAX]
    }

    fn op() -> impl Strategy<Value = Op> {
        let owner = || prop_oneof![Just(A), Just(B)];
        prop_oneof![
            3 => (address(), 0..20_u64, owner()).prop_map(|(start, len, owner)| Op::Reserve { start, len, owner }),
            1 => (address(), owner()).prop_map(|(start, owner)| Op::Release { start, owner }),
        ]
    }

    /// The naive model: a list of ranges, compared byte by byte.
    #[derive(Default)]
    struct Model(Vec<(u64, u64, OwnerId)>);

    impl Model {
        fn owner_of(&self, address: u64) -> Option<OwnerId> {
            let holds = |(start, len, _): &&(u64, u64, OwnerId)| (0..*len).any(|n| start + n == address);
            self.0.iter().find(holds).map(|(_, _, owner)| *owner)
        }

        fn apply(&mut self, op: &Op) -> Option<ReservationProblem> {
            match *op {
                Op::Reserve { len: 0, .. } => Some(ReservationProblem::Empty),
                Op::Reserve { start, len, .. } if start.checked_add(len).is_none() => {
                    Some(ReservationProblem::Overflow)
                }
                Op::Reserve { start, len, .. } if (0..len).any(|n| self.owner_of(start + n).is_some()) => {
                    // The one that begins last.
                    let overlaps = |(first, len_there, _): &&(u64, u64, OwnerId)| {
                        (0..len).any(|n| (*first..*first + *len_there).contains(&(start + n)))
                    };
                    let there = self.0.iter().filter(overlaps).max_by_key(|(first, ..)| *first);
                    there.map(|(first, len, _)| ReservationProblem::Overlap { first: *first, last: first + len - 1 })
                }
                Op::Reserve { start, len, owner } => {
                    self.0.push((start, len, owner));
                    None
                }
                Op::Release { start, owner } => {
                    let before = self.0.len();
                    self.0.retain(|(s, _, o)| (*s, *o) != (start, owner));
                    (self.0.len() == before).then_some(ReservationProblem::NotReserved)
                }
            }
        }
    }

    proptest! {
        #[test]
        fn the_map_agrees_with_a_naive_list(ops in prop::collection::vec(op(), 1..60)) {
            let (map, mut model) = (AddressMap::default(), Model::default());
            for op in &ops {
                let result = match *op {
                    Op::Reserve { start, len, owner } => map.reserve(AddressSpace::Mmio, start, len, claim(owner)),
                    Op::Release { start, owner } => map.release(AddressSpace::Mmio, start, owner),
                };
                prop_assert_eq!(problem(result), model.apply(op), "{:?}", op);
            }
            for address in (0..100).chain(u64::MAX - 100..=u64::MAX) {
                prop_assert_eq!(owner_of(&map, AddressSpace::Mmio, address), model.owner_of(address), "{:#x}", address);
            }
        }
    }
}
