//! `set_msrs` and `set_cpuid` alone, decoded without an allocation for each entry, which takes the general decoder ten times what
//! the peer needs to send it.

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

use crate::limits::{MAX_CPUID_ENTRIES, MAX_MSRS};
use crate::scan::{FieldBudget, Problem, delimited, skip, varint};

/// The entries of a `set_msrs` or a `set_cpuid`: an entry's number n, counted from 1, is that of its field n.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entries {
    /// Index and data.
    Msrs(Vec<[u64; 2]>),
    /// Function, nothing, whether there is an index, index, eax, ebx, ecx, edx.
    Cpuid(Vec<[u64; 8]>),
}

/// The fields of `VcpuRequest`.
const SET_MSRS: u32 = 6;
const SET_CPUID: u32 = 7;

/// The entries of a request that is one of the two and nothing else.
pub(crate) fn decode(mut bytes: &[u8]) -> Option<Result<Entries, Problem>> {
    let tag = varint(&mut bytes)?;
    let number = u32::try_from(tag >> 3).ok().filter(|_| tag & 7 == 2)?;
    if ![SET_MSRS, SET_CPUID].contains(&number) {
        return None;
    }
    let content = delimited(&mut bytes).ok().filter(|_| bytes.is_empty())?;
    let too_many = Problem::TooMany { outermost: number };
    Some(match number {
        SET_MSRS => entries(content, MAX_MSRS, too_many).map(Entries::Msrs),
        _ => entries(content, MAX_CPUID_ENTRIES, too_many).map(Entries::Cpuid),
    })
}

fn entries<const N: usize>(mut rest: &[u8], most: usize, too_many: Problem) -> Result<Vec<[u64; N]>, Problem> {
    let mut entries = Vec::with_capacity(most.min(rest.len() / 2));
    let mut fields = FieldBudget::new();
    while !rest.is_empty() {
        fields.take()?;
        match varint(&mut rest).ok_or(Problem::Malformed)? {
            0x0a if entries.len() >= most => return Err(too_many),
            0x0a => {
                // Itself and its numbers.
                fields.add_element(N.saturating_add(1));
                entries.push(numbers(delimited(&mut rest)?, &mut fields)?);
            }
            tag => skip(tag, &mut rest)?,
        }
    }
    Ok(entries)
}

fn numbers<const N: usize>(mut rest: &[u8], fields: &mut FieldBudget) -> Result<[u64; N], Problem> {
    let mut numbers = [0; N];
    while !rest.is_empty() {
        fields.take()?;
        let tag = varint(&mut rest).ok_or(Problem::Malformed)?;
        let place = usize::try_from(tag >> 3).ok().and_then(|number| numbers.get_mut(number.checked_sub(1)?));
        match place {
            Some(number) if tag & 7 == 0 => *number = varint(&mut rest).ok_or(Problem::Malformed)?,
            _ => skip(tag, &mut rest)?,
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use protobuf::Message;

    use super::*;
    use crate::messages::{CpuidEntry, VcpuRequest, vcpu_request::MsrEntry};

    fn bytes(request: &VcpuRequest) -> Vec<u8> {
        request.write_to_bytes().unwrap()
    }

    fn msrs(count: u32) -> VcpuRequest {
        let mut request = VcpuRequest::new();
        let entry = |index| MsrEntry { index, data: u64::MAX - u64::from(index), ..Default::default() };
        request.mut_set_msrs().entries = (0..count).map(entry).collect();
        request
    }

    #[test]
    fn entries_are_those_that_were_encoded() {
        let expected = (0..256_u64).map(|index| [index, u64::MAX - index]).collect();
        assert_eq!(decode(&bytes(&msrs(256))), Some(Ok(Entries::Msrs(expected))));
        let mut request = VcpuRequest::new();
        let entry = CpuidEntry {
            function: 1,
            has_index: true,
            index: 3,
            eax: 4,
            ebx: 5,
            ecx: 6,
            edx: u32::MAX,
            ..Default::default()
        };
        request.mut_set_cpuid().entries = vec![entry, CpuidEntry::new()];
        let expected = vec![[1, 0, 1, 3, 4, 5, 6, u64::from(u32::MAX)], [0; 8]];
        assert_eq!(decode(&bytes(&request)), Some(Ok(Entries::Cpuid(expected))));
    }

    #[test]
    fn one_entry_too_many_is_told() {
        assert_eq!(decode(&bytes(&msrs(257))), Some(Err(Problem::TooMany { outermost: 6 })));
    }

    #[test]
    fn many_superfluous_fields_are_an_error() {
        let request = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8][..], content].concat();
        for number in [6, 7] {
            // Unknown fields beside the entries; in an entry; a number of an entry that comes again.
            let unknown = |count| [0x18, 0].repeat(count);
            let again = [&[0x0a, 118][..], &[0x08, 0].repeat(59)].concat();
            assert!(matches!(decode(&request(number, &unknown(50))), Some(Ok(_))));
            let many = [&[number << 3 | 2, 0x82, 0x01][..], &unknown(65)].concat();
            assert_eq!(decode(&many), Some(Err(Problem::Superfluous)));
            assert!(matches!(decode(&request(number, &again)), Some(Ok(_))));
            let many = [&[number << 3 | 2, 0xf0, 0x01][..], &again, &again].concat();
            assert_eq!(decode(&many), Some(Err(Problem::Superfluous)));
        }
    }

    #[test]
    fn other_requests_and_those_with_other_fields_are_none() {
        let whole = bytes(&msrs(2));
        assert_eq!(decode(&[&whole[..], &[0x42, 0]].concat()), None);
        assert_eq!(decode(&whole[..whole.len() - 1]), None);
        assert_eq!(decode(&[0x42, 0]), None);
        // An entry that is longer than what it stands in; fields that nobody knows.
        assert_eq!(decode(&[0x32, 0x02, 0x0a, 0x05]), Some(Err(Problem::Malformed)));
        let expected = Entries::Msrs(vec![[1, 0]]);
        assert_eq!(decode(&[0x32, 0x08, 0x0a, 0x04, 0x08, 0x01, 0x58, 0x07, 0x18, 0x00]), Some(Ok(expected)));
    }
}
