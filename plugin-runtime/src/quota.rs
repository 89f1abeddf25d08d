//! How much one plugin may have of what costs the VMM memory or descriptors.

/// Main connections at a time. One more is refused with `EMFILE`.
pub(crate) const CONNECTIONS: usize = 64;

/// Objects (memories, I/O events, interrupt events) at a time. One more is refused with `ENOSPC`.
pub(crate) const OBJECTS: usize = 4096;

/// I/O events at a time, among the objects. One more is refused with `ENOSPC`, as by the kernel, which allows fewer.
pub(crate) const IO_EVENTS: usize = 1024;

/// Reserved ranges at a time. One more is refused with `ENOSPC`.
pub(crate) const RESERVATIONS: usize = 131_072;

/// Descriptors that a plugin was sent and has not read: a response with as many as there can be
/// ([`MAX_RESPONSE_FDS`](plugin_proto::limits::MAX_RESPONSE_FDS)) on two connections, and one descriptor on each of the others. The
/// connection that asks for more is dropped.
pub(crate) const UNREAD_FDS: usize = 128;
