//! What a vCPU remembers of the address map, so that an access to the same device takes neither lock nor search.

use hypervisor::AddressSpace;

use crate::address_map::{AddressMap, Claim};

/// Ranges remembered, a power of two.
const ENTRIES: usize = 16;

/// The ranges that a vCPU has accessed lately. It counts until the map changes.
#[derive(Debug, Default)]
pub(crate) struct ClaimCache {
    version: u64,
    entries: [Option<Entry>; ENTRIES],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    space: AddressSpace,
    first: u64,
    last: u64,
    claim: Claim,
}

impl ClaimCache {
    /// Who gets an access whose first byte is at `address`, and how it is served, as [`AddressMap::claim_on`] says.
    #[inline]
    pub(crate) fn claim_on(&mut self, map: &AddressMap, space: AddressSpace, address: u64) -> Option<Claim> {
        let version = map.version();
        match self.entries.get(Self::place(address)) {
            Some(Some(entry))
                if version == self.version && entry.space == space && (entry.first..=entry.last).contains(&address) =>
            {
                Some(entry.claim)
            }
            _ => self.search(map, version, space, address),
        }
    }

    /// Devices lie at neighbouring ports, or at the beginnings of pages.
    fn place(address: u64) -> usize {
        (address ^ address >> 12) as usize % ENTRIES
    }

    /// Looks in the map. `version` was taken before: what changes meanwhile makes the result old.
    #[cold]
    fn search(&mut self, map: &AddressMap, version: u64, space: AddressSpace, address: u64) -> Option<Claim> {
        if version != self.version {
            *self = Self { version, entries: [None; ENTRIES] };
        }
        let (first, last, claim) = map.range_around(space, address)?;
        // The remainder lies within.
        *self.entries.get_mut(Self::place(address))? = Some(Entry { space, first, last, claim });
        Some(claim)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address_map::Service;
    use crate::owner::OwnerId;

    #[derive(Clone, Debug)]
    enum Op {
        Reserve(u64, u64),
        Release(u64),
        Look(u64),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (0..64_u64, 1..20_u64).prop_map(|(start, len)| Op::Reserve(start, len)),
            (0..64_u64).prop_map(Op::Release),
            (0..90_u64).prop_map(Op::Look),
        ]
    }

    proptest! {
        /// Whatever is reserved and released in between, the cache says what the map says.
        #[test]
        fn the_cache_agrees_with_the_map(ops in prop::collection::vec(op(), 1..200)) {
            let (map, mut cache) = (AddressMap::default(), ClaimCache::default());
            for (number, op) in ops.into_iter().enumerate() {
                let claim = Claim { owner: OwnerId::new(number % 3), service: Service::Synchronous };
                match op {
                    Op::Reserve(start, len) => drop(map.reserve(AddressSpace::Pio, start, len, claim)),
                    Op::Release(start) => {
                        (0..3).for_each(|owner| drop(map.release(AddressSpace::Pio, start, OwnerId::new(owner))));
                    }
                    Op::Look(address) => prop_assert_eq!(
                        cache.claim_on(&map, AddressSpace::Pio, address),
                        map.claim_on(AddressSpace::Pio, address)
                    ),
                }
                prop_assert_eq!(cache.claim_on(&map, AddressSpace::Mmio, 5), None);
            }
        }
    }
}
