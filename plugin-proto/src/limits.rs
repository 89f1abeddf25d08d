//! Sizes, counts and names that version 0 of the protocol fixes.

/// The environment variable in which a plugin finds the number, in decimal, of its first main socket.
pub const SOCKET_VARIABLE: &str = "CROSVM_SOCKET";

/// Most bytes of a request, on either channel. Clients older than Outboard keep to 4096.
pub const MAX_REQUEST: usize = 0x40000;

/// Most bytes of a response, on either channel; on a vCPU's pipe the length prefix counts.
pub const MAX_RESPONSE: usize = 0x40000;

/// Most descriptors with a request on a main socket: `create.memory` brings its memfd.
pub const MAX_REQUEST_FDS: usize = 1;

/// Most descriptors with a response on a main socket. Older clients have room for no more.
pub const MAX_RESPONSE_FDS: usize = 32;

/// Descriptors of one vCPU in the answer to `get_vcpus`: the end to write, then the end to read.
pub const FDS_PER_VCPU: usize = 2;

/// Most vCPUs of a VM, since one answer to `get_vcpus` carries the descriptors of all.
pub const MAX_VCPUS: usize = MAX_RESPONSE_FDS / FDS_PER_VCPU;

/// Bytes that a vCPU's pipe is asked to hold (`F_SETPIPE_SZ`).
pub const PIPE_SIZE: usize = 0x40000;

/// Most fields of a request that the protocol does not have. A decoder keeps those, each in memory of its own, which takes it half
/// a microsecond.
pub const MAX_UNKNOWN_FIELDS: usize = 8;

/// Most fields of a request that the protocol has once and that come again.
pub const MAX_REPEATED_FIELDS: usize = 64;

/// Most routes of `set_irq_routing`, as for the kernel (`KVM_MAX_IRQ_ROUTES`).
pub const MAX_ROUTES: usize = 4096;

/// Most details of a call hint. Clients in C keep to 32.
pub const MAX_HINTS: usize = 64;

/// Most entries of `get_msrs` and `set_msrs`, as for the kernel (`MAX_IO_MSRS`, itself one too many there).
pub const MAX_MSRS: usize = 256;

/// Most entries of `set_cpuid`, as for the kernel (`KVM_MAX_CPUID_ENTRIES`).
pub const MAX_CPUID_ENTRIES: usize = 256;

/// Most bytes of one access: a string instruction (`rep insw`) may move a page at once.
pub const MAX_STRING_DATA: usize = 4096;
