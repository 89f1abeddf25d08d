//! Whatever either side may send comes out of both framings as it went in, and nothing else gets through.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

use plugin_proto::limits::{MAX_REQUEST, MAX_RESPONSE};
use plugin_proto::messages::{VcpuResponse, vcpu_response};
use plugin_proto::strategies::{main_request, main_response, vcpu_request, vcpu_response};
use plugin_proto::{
    Error, ResponseReader, decode_main_request, decode_main_response, decode_vcpu_request, encode_main_request,
    encode_main_response, encode_vcpu_request, encode_vcpu_response,
};
use proptest::collection::vec;
use proptest::prelude::*;
use protobuf::Message;

/// Encodes `message`, and checks that it comes back, or that it has no bytes and is refused both ways.
fn check_bare<M: Message + PartialEq + std::fmt::Debug>(
    message: &M,
    encode: fn(&M, &mut Vec<u8>) -> Result<(), Error>,
    decode: fn(&[u8]) -> Result<M, Error>,
) -> Result<(), TestCaseError> {
    let mut bytes = b"left from before".to_vec();
    if *message == M::new() {
        let refused = matches!(encode(message, &mut bytes), Err(Error::Empty { .. }));
        prop_assert!(refused && bytes.is_empty());
        let refused = matches!(decode(&bytes), Err(Error::Empty { .. }));
        prop_assert!(refused);
        return Ok(());
    }
    encode(message, &mut bytes).unwrap();
    prop_assert_eq!(&decode(&bytes).unwrap(), message);
    for end in 0..bytes.len() {
        prop_assert!(decode(&bytes[..end]).as_ref().ok() != Some(message), "cut at {}", end);
    }
    Ok(())
}

/// Feeds `bytes` to a reader in pieces that end at `cuts`, taking all messages after each piece.
fn read_in_pieces(bytes: &[u8], cuts: &[usize]) -> Result<Vec<VcpuResponse>, Error> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let (mut reader, mut messages, mut start) = (ResponseReader::new(), Vec::new(), 0);
    for end in cuts {
        reader.feed(&bytes[start..end]);
        start = end;
        while let Some(message) = reader.next_response()? {
            messages.push(message);
        }
    }
    reader.finish().map(|()| messages)
}

proptest! {
    #[test]
    fn main_requests_round_trip_and_no_cut_one_passes_for_whole(message in main_request()) {
        check_bare(&message, encode_main_request, decode_main_request)?;
    }

    #[test]
    fn main_responses_round_trip_and_no_cut_one_passes_for_whole(message in main_response()) {
        check_bare(&message, encode_main_response, decode_main_response)?;
    }

    #[test]
    fn vcpu_requests_round_trip_and_no_cut_one_passes_for_whole(message in vcpu_request()) {
        check_bare(&message, encode_vcpu_request, decode_vcpu_request)?;
    }

    #[test]
    fn vcpu_responses_round_trip_through_reads_of_any_size(
        messages in vec(vcpu_response(), 0..6),
        cuts in vec(any::<usize>(), 0..12),
    ) {
        let (mut stream, mut one) = (Vec::new(), Vec::new());
        for message in &messages {
            encode_vcpu_response(message, &mut one).unwrap();
            stream.extend_from_slice(&one);
        }
        prop_assert_eq!(read_in_pieces(&stream, &cuts).unwrap(), messages);
    }

    #[test]
    fn a_pipe_that_ends_inside_a_response_is_told_from_one_that_ends_after_it(message in vcpu_response()) {
        let mut bytes = Vec::new();
        encode_vcpu_response(&message, &mut bytes).unwrap();
        for end in 1..bytes.len() {
            let mut reader = ResponseReader::new();
            reader.feed(&bytes[..end]);
            prop_assert_eq!(reader.next_response().unwrap(), None);
            let Err(Error::Truncated { have, .. }) = reader.finish() else {
                return Err(TestCaseError::fail("not truncated"));
            };
            prop_assert_eq!(have, end);
        }
    }

    #[test]
    fn random_bytes_never_panic_any_decoder(bytes in vec(any::<u8>(), 0..512), cuts in vec(any::<usize>(), 0..4)) {
        let _ = decode_main_request(&bytes);
        let _ = decode_main_response(&bytes);
        let _ = decode_vcpu_request(&bytes);
        let _ = read_in_pieces(&bytes, &cuts);
    }

    #[test]
    fn a_changed_byte_never_panics_a_decoder(
        request in vcpu_request(),
        response in main_response(),
        place in any::<prop::sample::Index>(),
        value: u8,
    ) {
        let mut bytes = Vec::new();
        if encode_vcpu_request(&request, &mut bytes).is_ok() {
            let place = place.index(bytes.len());
            bytes[place] = value;
            let _ = decode_vcpu_request(&bytes);
        }
        if encode_main_response(&response, &mut bytes).is_ok() {
            let place = place.index(bytes.len());
            bytes[place] = value;
            let _ = decode_main_response(&bytes);
        }
    }
}

/// A response whose encoding, without prefix, has `length` bytes.
fn response_of(length: usize) -> VcpuResponse {
    let mut response = VcpuResponse::new();
    for overhead in 0..16 {
        response.set_get_state(vcpu_response::GetState { state: vec![1; length - overhead], ..Default::default() });
        if response.compute_size() == length as u64 {
            return response;
        }
    }
    panic!("no state makes {length} bytes");
}

#[test]
fn the_longest_response_passes_and_one_byte_more_is_refused() {
    let mut bytes = Vec::new();
    let longest = response_of(MAX_RESPONSE - 3);
    encode_vcpu_response(&longest, &mut bytes).unwrap();
    assert_eq!(bytes.len(), MAX_RESPONSE);
    assert_eq!(read_in_pieces(&bytes, &[]).unwrap(), [longest]);

    let longer = response_of(MAX_RESPONSE - 2);
    assert!(matches!(encode_vcpu_response(&longer, &mut bytes), Err(Error::TooLong { limit: MAX_RESPONSE, .. })));
    assert!(bytes.is_empty());
}

#[test]
fn a_request_past_the_limit_is_refused_by_its_length() {
    let bytes = vec![0; MAX_REQUEST + 1];
    for refused in [decode_main_request(&bytes).err(), decode_vcpu_request(&bytes).err()] {
        assert!(matches!(refused, Some(Error::TooLong { length: 0x40001, limit: MAX_REQUEST, .. })));
    }
}

#[test]
fn a_prefix_that_claims_too_much_is_refused_before_its_bytes_come_and_stays_refused() {
    let mut reader = ResponseReader::new();
    reader.feed(&[0x81, 0x80, 0x10]); // 0x40001
    for _ in 0..2 {
        assert!(matches!(reader.next_response(), Err(Error::TooLong { length: 0x40001, limit: MAX_RESPONSE, .. })));
        reader.feed(b"more");
    }
}

#[test]
fn a_prefix_of_more_than_five_bytes_or_32_bits_is_refused() {
    for prefix in [[0x80, 0x80, 0x80, 0x80, 0x80], [0xff, 0xff, 0xff, 0xff, 0x10]] {
        let mut reader = ResponseReader::new();
        reader.feed(&prefix);
        assert!(matches!(reader.next_response(), Err(Error::LengthPrefix { .. })), "{prefix:x?}");
    }
}

#[test]
fn a_prefix_longer_than_it_need_be_is_read() {
    let mut reader = ResponseReader::new();
    reader.feed(&[0x82, 0x80, 0x00, 0x08, 0x2c]);
    assert_eq!(reader.next_response().unwrap().map(|response| response.errno), Some(22));
}
