//! What can be wrong with a message.

/// Why bytes are no message, or a message does not become bytes.
///
/// `message` is always the name of the protobuf message, for example `MainRequest`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No bytes at all. On a main socket that is how the peer closes the connection; sending it would close it too.
    #[error("no bytes where a {message} should be")]
    Empty {
        /// The message expected.
        message: &'static str,
    },
    /// More bytes than the protocol allows. Both counts are in bytes.
    #[error("a {message} of {length} bytes, more than the {limit} allowed")]
    TooLong {
        /// The message.
        message: &'static str,
        /// Its length; on a vCPU's pipe, what the prefix claims.
        length: u64,
        /// The most allowed.
        limit: usize,
    },
    /// A length prefix that does not end within five bytes, or does not fit 32 bits.
    #[error("the length before a {message} is no 32-bit varint")]
    LengthPrefix {
        /// The message expected.
        message: &'static str,
    },
    /// The pipe ended inside a length prefix or a message.
    #[error("the pipe ended {have} bytes into a {message}")]
    Truncated {
        /// The message that had begun.
        message: &'static str,
        /// How many bytes of it, prefix included, had come.
        have: usize,
    },
    /// The bytes are not the message's protobuf encoding.
    #[error("{length} bytes are no {message}: {source}")]
    Decode {
        /// The message expected.
        message: &'static str,
        /// How many bytes there were.
        length: usize,
        /// What the decoder says.
        source: protobuf::Error,
    },
    /// The bytes are not the message's protobuf encoding: a field is cut short, or of a wire type that proto3 does not have.
    #[error("{length} bytes are no {message}: a field is cut short")]
    Malformed {
        /// The message expected.
        message: &'static str,
        /// How many bytes there were.
        length: usize,
    },
    /// More than [`MAX_UNKNOWN_FIELDS`](crate::limits::MAX_UNKNOWN_FIELDS) fields that are unknown, or than
    /// [`MAX_REPEATED_FIELDS`](crate::limits::MAX_REPEATED_FIELDS) that come again.
    #[error("a {message} with too many fields that are unknown or come again")]
    Superfluous {
        /// The message.
        message: &'static str,
    },
    /// More elements of a repeated field than the protocol allows.
    #[error("a {message} with too many elements in its field {outermost}")]
    TooMany {
        /// The message.
        message: &'static str,
        /// The number of the message's field that they are in: which request it is.
        outermost: u32,
    },
    /// The message has no encoding.
    #[error("a {message} cannot be encoded: {source}")]
    Encode {
        /// The message.
        message: &'static str,
        /// What the encoder says.
        source: protobuf::Error,
    },
}
