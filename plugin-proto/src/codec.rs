//! Protobuf encoding and decoding of one bare message, within the protocol's limits.

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

use protobuf::rt::WireType;
use protobuf::{CodedInputStream, CodedOutputStream, Message};

use crate::Error;
use crate::scan::{Problem, Schema, scan};

/// The way to a packed repeated field, as field numbers from the outermost message inwards.
type Path = [u32];

/// Replaces what is in `out` with the encoding of `message`, which must have between 1 and `limit` bytes.
pub(crate) fn encode<M: Message>(message: &M, limit: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    out.clear();
    match message.compute_size() {
        0 => Err(Error::Empty { message: M::NAME }),
        length if length > limit as u64 => Err(Error::TooLong { message: M::NAME, length, limit }),
        _ => append(message, out),
    }
}

/// Appends the encoding of `message`, whose size has been computed, to `out`.
pub(crate) fn append<M: Message>(message: &M, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut stream = CodedOutputStream::vec(out);
    message
        .write_to_with_cached_sizes(&mut stream)
        .and_then(|()| stream.flush())
        .map_err(|source| Error::Encode { message: M::NAME, source })
}

/// Decodes a request, of between 1 and `limit` bytes, whose fields `schema` has, with `most` elements of repeated fields.
pub(crate) fn decode_request<M: Message>(bytes: &[u8], limit: usize, schema: &Schema, most: usize) -> Result<M, Error> {
    check_length::<M>(bytes, limit)?;
    scan(bytes, schema, most).map_err(scan_error::<M>(bytes))?;
    // No packed field is longer than the bytes it stands in: the scan has seen that.
    parse(bytes)
}

/// The message that holds an empty field of that number and nothing else; the empty one where there is no such field.
pub(crate) fn with_empty_field<M: Message>(number: u32) -> M {
    let mut bytes = Vec::new();
    let mut stream = CodedOutputStream::vec(&mut bytes);
    let written = stream.write_tag(number, WireType::LengthDelimited).and_then(|()| stream.write_raw_varint32(0));
    let written = written.and_then(|()| stream.flush());
    drop(stream);
    written.and_then(|()| M::parse_from(&mut whole(&bytes)?)).unwrap_or_default()
}

/// What was seen of a message, as an error.
pub(crate) fn scan_error<M: Message>(bytes: &[u8]) -> impl Fn(Problem) -> Error {
    move |problem| match problem {
        Problem::Malformed => Error::Malformed { message: M::NAME, length: bytes.len() },
        Problem::Superfluous => Error::Superfluous { message: M::NAME },
        Problem::TooMany { outermost } => Error::TooMany { message: M::NAME, outermost },
    }
}

pub(crate) fn check_length<M: Message>(bytes: &[u8], limit: usize) -> Result<(), Error> {
    match bytes.len() {
        0 => Err(Error::Empty { message: M::NAME }),
        length if length > limit => Err(Error::TooLong { message: M::NAME, length: length as u64, limit }),
        _ => Ok(()),
    }
}

fn parse<M: Message>(bytes: &[u8]) -> Result<M, Error> {
    whole(bytes).and_then(|mut input| M::parse_from(&mut input)).map_err(decode_error::<M>(bytes))
}

fn decode_error<M: Message>(bytes: &[u8]) -> impl Fn(protobuf::Error) -> Error {
    move |source| Error::Decode { message: M::NAME, length: bytes.len(), source }
}

/// Decodes `bytes`, of which there must be between 1 and `limit`.
pub(crate) fn decode<M: Message>(bytes: &[u8], limit: usize, packed: &Path) -> Result<M, Error> {
    check_length::<M>(bytes, limit)?;
    whole(bytes).and_then(|mut input| check_packed(&mut input, packed)).map_err(decode_error::<M>(bytes))?;
    parse(bytes)
}

/// A stream that knows where `bytes` end. Without a limit the decoder would reserve up to ten million bytes for a field
/// that claims them, before it finds that they are not there.
fn whole(bytes: &[u8]) -> protobuf::Result<CodedInputStream<'_>> {
    let mut input = CodedInputStream::from_bytes(bytes);
    input.push_limit(bytes.len() as u64)?;
    Ok(input)
}

/// Checks that the packed repeated fields at the end of `path` are no longer than the bytes they stand in.
///
/// For a packed field the decoder reserves room for as many elements as the field claims bytes, up to ten million, whatever
/// the stream's limit. So this looks first, with the decoder's own reader: both see the same fields.
fn check_packed(input: &mut CodedInputStream<'_>, path: &Path) -> protobuf::Result<()> {
    let Some((&wanted, inner)) = path.split_first() else {
        return Ok(());
    };
    while let Some(tag) = input.read_raw_tag_or_eof()? {
        let number = tag >> 3;
        let wire_type = WireType::new(tag & 7).unwrap_or(WireType::EndGroup);
        if number == wanted && wire_type == WireType::LengthDelimited && !inner.is_empty() {
            let length = input.read_raw_varint64()?;
            let outer_limit = input.push_limit(length)?;
            check_packed(input, inner)?;
            input.pop_limit(outer_limit);
        } else {
            // Skipping a field longer than what is left is an error: that is the check.
            input.skip_field(wire_type)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::VcpuRequest;
    use crate::scan::VCPU_REQUEST;

    /// `get_msrs { entry_indices: packed, of ten million bytes }`, which ends there.
    const CLAIMS_TEN_MILLION: [u8; 7] = [0x2a, 0x05, 0x0a, 0x80, 0xad, 0xe2, 0x04];

    #[test]
    fn a_packed_field_longer_than_its_message_is_refused_before_decoding() {
        let mut input = whole(&CLAIMS_TEN_MILLION).unwrap();
        assert!(check_packed(&mut input, &[5, 1]).is_err());
        assert!(matches!(
            decode::<VcpuRequest>(&CLAIMS_TEN_MILLION, 4096, &[5, 1]),
            Err(Error::Decode { message: "VcpuRequest", length: 7, .. })
        ));
        assert!(matches!(
            decode_request::<VcpuRequest>(&CLAIMS_TEN_MILLION, 4096, &VCPU_REQUEST, usize::MAX),
            Err(Error::Malformed { message: "VcpuRequest", length: 7 })
        ));
    }

    #[test]
    fn packed_and_unpacked_numbers_both_decode() {
        for bytes in [&[0x2a, 0x04, 0x0a, 0x02, 0x10, 0x11][..], &[0x2a, 0x04, 0x08, 0x10, 0x08, 0x11]] {
            let request: VcpuRequest = decode_request(bytes, 4096, &VCPU_REQUEST, usize::MAX).unwrap();
            assert_eq!(request.get_msrs().entry_indices, [0x10, 0x11]);
        }
    }
}
