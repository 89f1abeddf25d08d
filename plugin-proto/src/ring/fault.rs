//! What a peer can do to break a ring.

/// Why a ring cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The peer has closed it.
    #[error("the ring was closed")]
    Closed,
    /// The peer's index says more than can be.
    #[error("a ring's index jumped from {from:#x} to {to:#x}")]
    BadIndex {
        /// What it was when it was last looked at.
        from: u32,
        /// What it is.
        to: u32,
    },
    /// A record claims more bytes than are allowed, or other than its parts have.
    #[error("a ring's record of kind {kind} with {length} bytes")]
    BadLength {
        /// Its kind.
        kind: u16,
        /// The bytes it claims.
        length: u32,
    },
    /// There is no such kind of record.
    #[error("a ring's record of the unknown kind {kind}")]
    UnknownKind {
        /// The kind.
        kind: u16,
    },
}
