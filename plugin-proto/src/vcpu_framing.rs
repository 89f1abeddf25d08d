//! A vCPU's two pipes.
//!
//! Towards the VMM a request is one bare message in one `write`, and the plugin has only one under way, so what a `read`
//! gives is one request. Towards the plugin a response follows its length as a varint, both in one `write`; several
//! may wait in the pipe. [`ResponseReader`] takes them apart again.

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

use protobuf::{CodedOutputStream, Message};

use crate::Error;
use crate::codec::{append, decode, decode_request, encode, scan_error, with_empty_field};
use crate::limits::{MAX_REQUEST, MAX_RESPONSE};
use crate::messages::{VcpuRequest, VcpuResponse};
use crate::scan::VCPU_REQUEST;
use crate::settings::{self, Entries};

/// Where a `VcpuResponse` has packed numbers: `get_msrs.entry_data`.
const RESPONSE_PACKED: [u32; 2] = [6, 1];

/// Most bytes of a length prefix: a varint has seven bits a byte, and lengths have 32.
const MAX_PREFIX: usize = 5;

/// Replaces what is in `bytes` with `request`, encoded.
///
/// # Errors
/// [`Error::Empty`] when nothing is set, [`Error::TooLong`] past [`MAX_REQUEST`], [`Error::Encode`].
pub fn encode_vcpu_request(request: &VcpuRequest, bytes: &mut Vec<u8>) -> Result<(), Error> {
    encode(request, MAX_REQUEST, bytes)
}

/// Reads the one request in `bytes`.
///
/// # Errors
/// [`Error::Empty`], [`Error::TooLong`] past [`MAX_REQUEST`], [`Error::Superfluous`], [`Error::TooMany`], [`Error::Malformed`],
/// [`Error::Decode`].
pub fn decode_vcpu_request(bytes: &[u8]) -> Result<VcpuRequest, Error> {
    decode_request(bytes, MAX_REQUEST, &VCPU_REQUEST, usize::MAX)
}

/// The entries of a request that is a `set_msrs` or a `set_cpuid` and nothing else; `None` for any other.
///
/// # Errors
/// [`Error::TooMany`], [`Error::Superfluous`], [`Error::Malformed`].
pub fn decode_entries(bytes: &[u8]) -> Option<Result<Entries, Error>> {
    if bytes.len() > MAX_REQUEST {
        return None;
    }
    settings::decode(bytes).map(|entries| entries.map_err(scan_error::<VcpuRequest>(bytes)))
}

/// The request that [`Error::TooMany`] is about, by the number it has there, without what it holds: so that it can be refused by
/// its name.
#[must_use]
pub fn bare_vcpu_request(number: u32) -> VcpuRequest {
    with_empty_field(number)
}

/// Replaces what is in `bytes` with the length of `response` and `response`, to be written by one `write`.
///
/// # Errors
/// [`Error::TooLong`] when prefix and message pass [`MAX_RESPONSE`], [`Error::Encode`].
pub fn encode_vcpu_response(response: &VcpuResponse, bytes: &mut Vec<u8>) -> Result<(), Error> {
    bytes.clear();
    let length = response.compute_size();
    let too_long = Error::TooLong { message: VcpuResponse::NAME, length, limit: MAX_RESPONSE };
    let Ok(length) = u32::try_from(length) else {
        return Err(too_long);
    };
    let mut prefix = CodedOutputStream::vec(bytes);
    prefix
        .write_raw_varint32(length)
        .and_then(|()| prefix.flush())
        .map_err(|source| Error::Encode { message: VcpuResponse::NAME, source })?;
    drop(prefix);
    if bytes.len().saturating_add(length as usize) > MAX_RESPONSE {
        bytes.clear();
        return Err(too_long);
    }
    append(response, bytes)
}

/// Replaces what is in `bytes` with `response` alone, for a channel that keeps messages apart by itself. There may be no bytes:
/// those of the empty message.
///
/// # Errors
/// [`Error::TooLong`] past [`MAX_RESPONSE`], [`Error::Encode`].
pub fn encode_bare_vcpu_response(response: &VcpuResponse, bytes: &mut Vec<u8>) -> Result<(), Error> {
    bytes.clear();
    let length = response.compute_size();
    if length > MAX_RESPONSE as u64 {
        return Err(Error::TooLong { message: VcpuResponse::NAME, length, limit: MAX_RESPONSE });
    }
    append(response, bytes)
}

/// Reads the one response in `bytes`.
///
/// # Errors
/// [`Error::TooLong`] past [`MAX_RESPONSE`], [`Error::Decode`].
pub fn decode_vcpu_response(bytes: &[u8]) -> Result<VcpuResponse, Error> {
    if bytes.is_empty() { Ok(VcpuResponse::new()) } else { decode(bytes, MAX_RESPONSE, &RESPONSE_PACKED) }
}

/// Gathers the bytes of a vCPU's response pipe and gives out whole messages.
///
/// Feed it what each `read` gave, of any size, and take messages until there is none. A stream that went wrong cannot be
/// found again: after an error every call gives that error.
///
/// ```
/// use plugin_proto::messages::VcpuResponse;
/// use plugin_proto::{ResponseReader, encode_vcpu_response};
///
/// let response = VcpuResponse { errno: 22, ..VcpuResponse::default() };
/// let mut bytes = Vec::new();
/// encode_vcpu_response(&response, &mut bytes)?;
///
/// let mut reader = ResponseReader::new();
/// let (first, rest) = bytes.split_at(1);
/// reader.feed(first);
/// assert_eq!(reader.next_response()?, None);
/// reader.feed(rest);
/// assert_eq!(reader.next_response()?, Some(response));
/// # Ok::<(), plugin_proto::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct ResponseReader {
    bytes: Vec<u8>,
    /// How many of `bytes` have been given out.
    taken: usize,
}

impl ResponseReader {
    /// A reader at the beginning of a pipe.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the bytes of one `read`.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken.min(self.bytes.len()));
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, or `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`Error::LengthPrefix`], [`Error::TooLong`] when the prefix claims more than [`MAX_RESPONSE`] bytes,
    /// [`Error::Decode`].
    pub fn next_response(&mut self) -> Result<Option<VcpuResponse>, Error> {
        let Some((length, message)) = split_prefix(self.rest())? else {
            return Ok(None);
        };
        let Some((message, after)) = message.split_at_checked(length) else {
            return Ok(None);
        };
        let response = decode_vcpu_response(message)?;
        self.taken = self.bytes.len().saturating_sub(after.len());
        Ok(Some(response))
    }

    /// To be called at the end of the pipe: checks that it did not come inside a message.
    ///
    /// # Errors
    /// [`Error::Truncated`] when bytes are left over.
    pub fn finish(&self) -> Result<(), Error> {
        match self.rest().len() {
            0 => Ok(()),
            have => Err(Error::Truncated { message: VcpuResponse::NAME, have }),
        }
    }

    fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }
}

/// Takes the length off the front of `bytes`: the length and what follows, or `None` when the prefix is not whole yet.
fn split_prefix(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Error> {
    let mut length = 0u64;
    let mut rest = bytes;
    for shift in (0..).step_by(7).take(MAX_PREFIX) {
        let Some((&byte, after)) = rest.split_first() else {
            return Ok(None);
        };
        rest = after;
        length |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return check_length(length).map(|length| Some((length, rest)));
        }
    }
    Err(Error::LengthPrefix { message: VcpuResponse::NAME })
}

/// Holds a claimed length against the limits.
fn check_length(length: u64) -> Result<usize, Error> {
    match u32::try_from(length).map(|length| length as usize) {
        Err(_) => Err(Error::LengthPrefix { message: VcpuResponse::NAME }),
        Ok(length) if length > MAX_RESPONSE => {
            Err(Error::TooLong { message: VcpuResponse::NAME, length: length as u64, limit: MAX_RESPONSE })
        }
        Ok(length) => Ok(length),
    }
}
