//! The main socket: one datagram of a `SOCK_SEQPACKET` pair is one bare message.
//!
//! A datagram of no bytes closes the connection: decoding one gives [`Error::Empty`], and so does encoding a message in
//! which nothing is set, which has no bytes.

use crate::Error;
use crate::codec::{check_length, decode, decode_request, encode, with_empty_field};
use crate::limits::{MAX_HINTS, MAX_REQUEST, MAX_RESPONSE};
use crate::messages::{MainRequest, MainResponse};
use crate::routing;
use crate::scan::MAIN_REQUEST;

/// Where a `MainResponse` has packed numbers: `get_msr_index_list.indices`.
const RESPONSE_PACKED: [u32; 2] = [9, 1];

/// Replaces what is in `datagram` with `request`, encoded.
///
/// # Errors
/// [`Error::Empty`] when nothing is set, [`Error::TooLong`] past [`MAX_REQUEST`], [`Error::Encode`].
pub fn encode_main_request(request: &MainRequest, datagram: &mut Vec<u8>) -> Result<(), Error> {
    encode(request, MAX_REQUEST, datagram)
}

/// Reads the request in a whole `datagram`.
///
/// # Errors
/// [`Error::Empty`] for the datagram that closes the connection, [`Error::TooLong`] past [`MAX_REQUEST`],
/// [`Error::Superfluous`], [`Error::TooMany`], [`Error::Malformed`], [`Error::Decode`].
pub fn decode_main_request(datagram: &[u8]) -> Result<MainRequest, Error> {
    decode_request(datagram, MAX_REQUEST, &MAIN_REQUEST, usize::MAX)
}

/// A request as the VMM takes it.
#[derive(Debug, PartialEq)]
pub enum Incoming<'a> {
    /// A `set_irq_routing`, and nothing else: what it holds, for [`decode_routes`](crate::decode_routes).
    Routing(&'a [u8]),
    /// Any other.
    Other(MainRequest),
}

/// Reads the request in a whole `datagram`, in a time that its sender's own work is worth.
///
/// # Errors
/// As those of [`decode_main_request`]. In a request with other fields beside it, `set_irq_routing` has no more routes than a call
/// hint has details ([`MAX_HINTS`]).
pub fn decode_incoming(datagram: &[u8]) -> Result<Incoming<'_>, Error> {
    check_length::<MainRequest>(datagram, MAX_REQUEST)?;
    match routing::content(datagram) {
        Some(content) => Ok(Incoming::Routing(content)),
        None => decode_request(datagram, MAX_REQUEST, &MAIN_REQUEST, MAX_HINTS).map(Incoming::Other),
    }
}

/// The request that [`Error::TooMany`] is about, by the number it has there, without what it holds: so that it can be refused by
/// its name.
#[must_use]
pub fn bare_main_request(number: u32) -> MainRequest {
    with_empty_field(number)
}

/// Replaces what is in `datagram` with `response`, encoded.
///
/// # Errors
/// [`Error::Empty`] when nothing is set, [`Error::TooLong`] past [`MAX_RESPONSE`], [`Error::Encode`].
pub fn encode_main_response(response: &MainResponse, datagram: &mut Vec<u8>) -> Result<(), Error> {
    encode(response, MAX_RESPONSE, datagram)
}

/// Reads the response in a whole `datagram`.
///
/// # Errors
/// [`Error::Empty`] for the datagram that closes the connection, [`Error::TooLong`] past [`MAX_RESPONSE`],
/// [`Error::Decode`].
pub fn decode_main_response(datagram: &[u8]) -> Result<MainResponse, Error> {
    decode(datagram, MAX_RESPONSE, &RESPONSE_PACKED)
}
