//! Counting a request's fields before it is decoded.
//!
//! The decoder allocates for each field that it does not know and for each element of a repeated one, which takes it many times
//! what the peer's bytes took to send. A scan takes a few nanoseconds a field, stops at the first field too many, and what it
//! lets through is decoded in a time that the peer's own work is worth.

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

use crate::limits::{MAX_CPUID_ENTRIES, MAX_HINTS, MAX_MSRS, MAX_REPEATED_FIELDS, MAX_ROUTES, MAX_UNKNOWN_FIELDS};

/// The fields of a message that the protocol has, by their numbers.
pub(crate) struct Schema(&'static [(u32, Kind)]);

/// What a field holds.
#[derive(Clone, Copy)]
enum Kind {
    /// A varint.
    Number,
    /// Bytes that the scan does not look into.
    Bytes,
    /// One message.
    Message(&'static Schema),
    /// Numbers, packed or each by itself, so many at most.
    Numbers(usize),
    /// Messages, so many at most.
    Messages(&'static Schema, usize),
}

use Kind::{Bytes, Message, Messages, Number, Numbers};

const EMPTY: Schema = Schema(&[]);

/// `MainRequest`.
pub(crate) const MAIN_REQUEST: Schema = Schema(&[
    (1, Message(&Schema(&[(1, Number), (2, Message(&IO_EVENT)), (3, Message(&MEMORY)), (4, Message(&IRQ_EVENT))]))),
    (2, Message(&ONE_NUMBER)),
    (3, Message(&EMPTY)),
    (4, Message(&EMPTY)),
    (5, Message(&ONE_NUMBER)),
    (6, Message(&EMPTY)),
    (7, Message(&EMPTY)),
    (8, Message(&EMPTY)),
    (9, Message(&EMPTY)),
    (10, Message(&Schema(&[(1, Number), (2, Number), (3, Number), (4, Number), (200, Number)]))),
    (11, Message(&TWO_NUMBERS)),
    (12, Message(&Schema(&[(1, Messages(&ROUTE, MAX_ROUTES))]))),
    (13, Message(&ONE_NUMBER)),
    (14, Message(&SET_STATE)),
    (15, Message(&ONE_NUMBER)),
    (16, Message(&TWO_NUMBERS)),
    (17, Message(&EMPTY)),
    (18, Message(&EMPTY)),
    (19, Message(&Schema(&[(1, Number), (2, Number), (3, Number), (4, Messages(&HINT, MAX_HINTS))]))),
    (101, Message(&ONE_NUMBER)),
    (200, Message(&TWO_NUMBERS)),
    (201, Message(&ONE_NUMBER)),
]);

/// `VcpuRequest`.
pub(crate) const VCPU_REQUEST: Schema = Schema(&[
    (1, Message(&EMPTY)),
    (2, Message(&Schema(&[(1, Bytes), (2, Bytes), (3, Bytes), (4, Bytes)]))),
    (3, Message(&ONE_NUMBER)),
    (4, Message(&SET_STATE)),
    (5, Message(&Schema(&[(1, Numbers(MAX_MSRS))]))),
    (6, Message(&Schema(&[(1, Messages(&TWO_NUMBERS, MAX_MSRS))]))),
    (7, Message(&Schema(&[(1, Messages(&CPUID_ENTRY, MAX_CPUID_ENTRIES))]))),
    (8, Message(&EMPTY)),
    (9, Message(&EMPTY)),
    (10, Message(&ONE_NUMBER)),
]);

const ONE_NUMBER: Schema = Schema(&[(1, Number)]);
const TWO_NUMBERS: Schema = Schema(&[(1, Number), (2, Number)]);
const SET_STATE: Schema = Schema(&[(1, Number), (2, Bytes)]);
const IO_EVENT: Schema = Schema(&[(1, Number), (2, Number), (3, Number), (4, Number)]);
const MEMORY: Schema = Schema(&[(1, Number), (2, Number), (3, Number), (4, Number), (5, Number)]);
const IRQ_EVENT: Schema = TWO_NUMBERS;
const ROUTE: Schema = Schema(&[(1, Number), (2, Message(&TWO_NUMBERS)), (3, Message(&TWO_NUMBERS))]);
const HINT: Schema = Schema(&[
    (1, Number),
    (2, Number),
    (3, Number),
    (4, Number),
    (5, Number),
    (6, Number),
    (7, Number),
    (8, Number),
    (9, Number),
    (10, Number),
]);
const CPUID_ENTRY: Schema =
    Schema(&[(1, Number), (3, Number), (4, Number), (5, Number), (6, Number), (7, Number), (8, Number)]);

/// Why a request is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    /// A field is cut short, or of a wire type that proto3 does not have.
    Malformed,
    /// Too many fields that the protocol does not have, or has once.
    Superfluous,
    /// Too many elements of a repeated field.
    TooMany {
        /// The number of the outermost field around them.
        outermost: u32,
    },
}

/// Counts the fields of a whole message, whose repeated fields may have `most` elements together, and each no more than its own
/// limit.
pub(crate) fn scan(bytes: &[u8], schema: &Schema, most: usize) -> Result<(), Problem> {
    Counts { unknown: 0, again: 0, elements: 0, most, outermost: None }.message(bytes, schema)
}

/// Bytes of the longest packed field whose elements are not too many: a varint has ten at most.
const MAX_PACKED: usize = MAX_MSRS * 10 + 10;

/// What was seen of a message.
struct Counts {
    unknown: usize,
    /// Fields that come once and came again.
    again: usize,
    /// Of all repeated fields together.
    elements: usize,
    most: usize,
    outermost: Option<u32>,
}

impl Counts {
    fn message(&mut self, mut rest: &[u8], Schema(fields): &Schema) -> Result<(), Problem> {
        // One bit for each field of the schema.
        let mut seen = 0_u32;
        while !rest.is_empty() {
            let tag = varint(&mut rest).and_then(|tag| u32::try_from(tag).ok()).ok_or(Problem::Malformed)?;
            let number = tag >> 3;
            let is_outermost = self.outermost.is_none();
            if is_outermost {
                self.outermost = Some(number);
            }
            let position = fields.iter().position(|(known, _)| *known == number);
            let kind = position.and_then(|position| fields.get(position)).map(|(_, kind)| *kind);
            let bit = position.and_then(|position| 1_u32.checked_shl(u32::try_from(position).ok()?)).unwrap_or(0);
            let is_first = seen & bit == 0;
            seen |= bit;
            match (tag & 7, kind) {
                (0, Some(Number)) => {
                    self.count_again(is_first)?;
                    skip_varint(&mut rest)?;
                }
                (0, Some(Numbers(most))) => {
                    self.count_elements(1, most)?;
                    skip_varint(&mut rest)?;
                }
                (2, Some(Bytes)) => {
                    self.count_again(is_first)?;
                    delimited(&mut rest)?;
                }
                (2, Some(Message(schema))) => {
                    self.count_again(is_first)?;
                    let content = delimited(&mut rest)?;
                    self.message(content, schema)?;
                }
                (2, Some(Numbers(most))) => {
                    let content = delimited(&mut rest)?;
                    // Each ends by a byte without the highest bit. More bytes than this are too many in any case.
                    let counted = content.get(..MAX_PACKED).unwrap_or(content);
                    let elements = counted.iter().filter(|byte| **byte < 0x80).count();
                    // The decoder takes its time for an empty one too.
                    self.count_elements(elements.max(1), most)?;
                }
                (2, Some(Messages(schema, most))) => {
                    self.count_elements(1, most)?;
                    let content = delimited(&mut rest)?;
                    self.message(content, schema)?;
                }
                _ => {
                    self.count_unknown()?;
                    skip(tag.into(), &mut rest)?;
                }
            }
            if is_outermost {
                self.outermost = None;
            }
        }
        Ok(())
    }

    fn count_unknown(&mut self) -> Result<(), Problem> {
        self.unknown = self.unknown.saturating_add(1);
        if self.unknown > MAX_UNKNOWN_FIELDS { Err(Problem::Superfluous) } else { Ok(()) }
    }

    fn count_again(&mut self, is_first: bool) -> Result<(), Problem> {
        self.again = self.again.saturating_add(usize::from(!is_first));
        if self.again > MAX_REPEATED_FIELDS { Err(Problem::Superfluous) } else { Ok(()) }
    }

    fn count_elements(&mut self, count: usize, most: usize) -> Result<(), Problem> {
        self.elements = self.elements.saturating_add(count);
        if self.elements > most.min(self.most) {
            return Err(Problem::TooMany { outermost: self.outermost.unwrap_or_default() });
        }
        Ok(())
    }
}

/// How many fields a decoder of its own may still read: those that its elements have, and [`MAX_REPEATED_FIELDS`] more.
pub(crate) struct FieldBudget(usize);

impl FieldBudget {
    pub(crate) fn new() -> Self {
        Self(MAX_REPEATED_FIELDS)
    }

    /// Adds the fields of one element, itself among them.
    pub(crate) fn add_element(&mut self, fields: usize) {
        self.0 = self.0.saturating_add(fields);
    }

    /// Takes one field.
    #[inline]
    pub(crate) fn take(&mut self) -> Result<(), Problem> {
        self.0 = self.0.checked_sub(1).ok_or(Problem::Superfluous)?;
        Ok(())
    }
}

/// Takes a varint off the front, of ten bytes at most.
#[inline]
pub(crate) fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = bytes.split_first()?;
    if first < 0x80 {
        *bytes = rest;
        return Some(first.into());
    }
    let mut value = 0_u64;
    for (shift, (position, byte)) in (0..).step_by(7).zip(bytes.iter().enumerate().take(10)) {
        value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        if *byte < 0x80 {
            *bytes = bytes.get(position.saturating_add(1)..)?;
            return Some(value);
        }
    }
    None
}

/// Takes a field off the front, whose tag was taken already.
pub(crate) fn skip(tag: u64, bytes: &mut &[u8]) -> Result<(), Problem> {
    match tag & 7 {
        0 => skip_varint(bytes)?,
        1 => *bytes = bytes.get(8..).ok_or(Problem::Malformed)?,
        2 => drop(delimited(bytes)?),
        5 => *bytes = bytes.get(4..).ok_or(Problem::Malformed)?,
        _ => return Err(Problem::Malformed),
    }
    Ok(())
}

fn skip_varint(bytes: &mut &[u8]) -> Result<(), Problem> {
    varint(bytes).map(drop).ok_or(Problem::Malformed)
}

/// Takes a length and as many bytes off the front.
#[inline]
pub(crate) fn delimited<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], Problem> {
    let len = varint(bytes).and_then(|len| usize::try_from(len).ok()).ok_or(Problem::Malformed)?;
    let (content, rest) = bytes.split_at_checked(len).ok_or(Problem::Malformed)?;
    *bytes = rest;
    Ok(content)
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::messages::{MainRequest, VcpuRequest, main_request, vcpu_request};

    fn bytes(message: &impl protobuf::Message) -> Vec<u8> {
        message.write_to_bytes().unwrap()
    }

    fn routing(count: usize) -> MainRequest {
        let mut request = MainRequest::new();
        request.mut_set_irq_routing().routes = vec![main_request::set_irq_routing::Route::new(); count];
        request
    }

    #[test]
    fn repeated_fields_have_as_many_elements_as_their_limits_say() {
        let scan_main = |request: &MainRequest| scan(&bytes(request), &MAIN_REQUEST, usize::MAX);
        assert_eq!(scan_main(&routing(MAX_ROUTES)), Ok(()));
        assert_eq!(scan_main(&routing(MAX_ROUTES + 1)), Err(Problem::TooMany { outermost: 12 }));
        assert_eq!(scan(&bytes(&routing(5)), &MAIN_REQUEST, 4), Err(Problem::TooMany { outermost: 12 }));
        let mut hint = MainRequest::new();
        hint.mut_set_call_hint().hints = vec![Default::default(); MAX_HINTS + 1];
        assert_eq!(scan_main(&hint), Err(Problem::TooMany { outermost: 19 }));

        let scan_vcpu = |request: &VcpuRequest| scan(&bytes(request), &VCPU_REQUEST, usize::MAX);
        let mut request = VcpuRequest::new();
        request.mut_get_msrs().entry_indices = vec![0x1_0000; MAX_MSRS];
        assert_eq!(scan_vcpu(&request), Ok(()));
        request.mut_get_msrs().entry_indices.push(1);
        assert_eq!(scan_vcpu(&request), Err(Problem::TooMany { outermost: 5 }));
        request.mut_set_msrs().entries = vec![vcpu_request::MsrEntry::new(); MAX_MSRS + 1];
        assert_eq!(scan_vcpu(&request), Err(Problem::TooMany { outermost: 6 }));
        request.mut_set_cpuid().entries = vec![Default::default(); MAX_CPUID_ENTRIES + 1];
        assert_eq!(scan_vcpu(&request), Err(Problem::TooMany { outermost: 7 }));
    }

    #[test]
    fn an_empty_packed_field_counts_as_an_element() {
        let get_msrs = |count: u8| [&[0x2a, 2 * count][..], &[0x0a, 0].repeat(count.into())].concat();
        assert_eq!(scan(&get_msrs(60), &VCPU_REQUEST, 60), Ok(()));
        assert_eq!(scan(&get_msrs(60), &VCPU_REQUEST, 59), Err(Problem::TooMany { outermost: 5 }));
    }

    #[test]
    fn elements_of_a_field_that_comes_again_count_together() {
        let twice = [bytes(&routing(MAX_ROUTES)), bytes(&routing(1))].concat();
        assert_eq!(scan(&twice, &MAIN_REQUEST, usize::MAX), Err(Problem::TooMany { outermost: 12 }));
    }

    #[test]
    fn a_few_superfluous_fields_are_let_through() {
        let times = |field: &[u8], count: usize| scan(&field.repeat(count), &MAIN_REQUEST, usize::MAX);
        // A number that nobody knows; a known one of another wire type; an unknown one in a request.
        for field in [&[0xf8, 0x3f, 0][..], &[0x0d, 0, 0, 0, 0], &[0x5a, 0x02, 0x18, 0]] {
            assert_eq!(times(field, MAX_UNKNOWN_FIELDS), Ok(()), "{field:x?}");
            assert_eq!(times(field, MAX_UNKNOWN_FIELDS + 1), Err(Problem::Superfluous), "{field:x?}");
        }
        // An empty request that comes again; a number that does.
        let again = [0x92, 0x01, 0];
        assert_eq!(times(&again, MAX_REPEATED_FIELDS + 1), Ok(()));
        assert_eq!(times(&again, MAX_REPEATED_FIELDS + 2), Err(Problem::Superfluous));
        let numbers = |count: u8| [&[0x5a, 2 * count][..], &[0x08, 0x01].repeat(count.into())].concat();
        assert_eq!(times(&numbers(60), 1), Ok(()));
        assert_eq!(times(&numbers(60), 2), Err(Problem::Superfluous));
    }

    #[test]
    fn what_is_cut_short_is_malformed() {
        let whole = bytes(&routing(3));
        for len in 1..whole.len() {
            assert_eq!(scan(&whole[..len], &MAIN_REQUEST, usize::MAX), Err(Problem::Malformed), "{len}");
        }
        // A group, a length of 64 bits, a tag of more than 32, a varint of more than ten bytes.
        let endless = [&[0x58][..], &[0x80; 11]].concat();
        let long = [&[0x62][..], &[0xff; 9], &[1]].concat();
        for bytes in [&[0x7b, 0x7c][..], &long, &[0xff, 0xff, 0xff, 0xff, 0x7f, 0], &endless] {
            assert_eq!(scan(bytes, &MAIN_REQUEST, usize::MAX), Err(Problem::Malformed), "{bytes:x?}");
        }
    }
}
