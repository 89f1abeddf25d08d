//! The protocol's messages, generated from `proto/plugin.proto`.
//!
//! A nested message lives in the module of its parent: `MainRequest.Create` is [`main_request::Create`]. A `oneof` is an
//! enum in that module: [`main_request::Message`]. Enum fields hold an `EnumOrUnknown`, since the peer may send any number.

pub use generated::plugin::*;

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::unwrap_used,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/messages/mod.rs"));
}
