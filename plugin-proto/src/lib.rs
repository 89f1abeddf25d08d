//! The words on the wire between Outboard and its plugins: messages and framing.
//!
//! This is version 0 of the protocol; `docs/protocol.md` is its reference. Both sides use this crate, and neither trusts
//! the other: whatever the bytes, decoding ends in a message or in an [`Error`], and no peer's number sizes an
//! allocation before it has been compared with the bytes that are there.
//!
//! - [`messages`] are the protobuf messages, generated from `proto/plugin.proto`.
//! - [`main_framing`] puts one message into one datagram of the main socket.
//! - [`vcpu_framing`] puts requests and responses into a vCPU's two pipes.
//! - [`ring`] is a vCPU's channel in shared memory, which both sides may agree on in place of the pipes.
//! - [`limits`] names the sizes and counts the protocol fixes.
//!
//! ```
//! use plugin_proto::messages::{MainRequest, main_request};
//! use plugin_proto::{decode_main_request, encode_main_request};
//!
//! let mut request = MainRequest::new();
//! request.set_start(main_request::Start::new());
//! let mut datagram = Vec::new();
//! encode_main_request(&request, &mut datagram)?;
//! assert_eq!(decode_main_request(&datagram)?, request);
//! # Ok::<(), plugin_proto::Error>(())
//! ```

mod codec;
mod error;
pub mod limits;
pub mod main_framing;
pub mod messages;
pub mod ring;
mod routing;
mod scan;
mod settings;
#[cfg(feature = "strategies")]
pub mod strategies;
pub mod vcpu_framing;

pub use error::Error;
pub use main_framing::{
    Incoming, bare_main_request, decode_incoming, decode_main_request, decode_main_response, encode_main_request,
    encode_main_response,
};
pub use routing::{Route, RouteTarget, decode_routes};
pub use settings::Entries;
pub use vcpu_framing::{
    ResponseReader, bare_vcpu_request, decode_entries, decode_vcpu_request, decode_vcpu_response,
    encode_bare_vcpu_response, encode_vcpu_request, encode_vcpu_response,
};
