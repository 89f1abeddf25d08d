//! What can go wrong below the traits.

use std::io;

use thiserror::Error;

use crate::VcpuId;

/// The result of a call into a backend.
pub type Result<T> = std::result::Result<T, Error>;

/// A backend refused, or was used against its rules.
#[derive(Debug, Error)]
pub enum Error {
    /// The operating system refused a call.
    #[error("{what} failed: {source}")]
    System {
        /// The call, by the kernel's name for it.
        what: &'static str,
        /// The errno it gave.
        source: io::Error,
    },
    /// A piece of guest memory cannot be had as asked.
    #[error("guest memory at {start:#x}, {len:#x} bytes: {problem}")]
    Memory {
        /// Guest-physical start, in bytes.
        start: u64,
        /// Length in bytes.
        len: u64,
        /// What is wrong with it.
        problem: MemoryProblem,
    },
    /// The guest touched memory whose pages the host cannot provide (`KVM_EXIT_MEMORY_FAULT` or `EFAULT`).
    #[error("vCPU {vcpu} touched guest memory at {address:#x} that the host cannot provide")]
    MemoryFault {
        /// The vCPU that stopped.
        vcpu: VcpuId,
        /// Guest-physical address; 0 where the kernel does not tell.
        address: u64,
    },
    /// The exit protocol of a read was not kept: see [`crate::Vcpu`].
    #[error("vCPU {vcpu}: {problem}")]
    Read {
        /// The vCPU that was misused.
        vcpu: VcpuId,
        /// The rule that was broken.
        problem: ReadProblem,
    },
    /// A script could not be understood.
    #[error("script line {line}: {problem}")]
    Script {
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it, with the offending word.
        problem: String,
    },
}

/// Why a piece of guest memory was refused.
#[derive(Debug, Error)]
pub enum MemoryProblem {
    /// Start, offset or length is not a multiple of the page size.
    #[error("start, offset and length must be multiples of {}", crate::PAGE_SIZE)]
    Unaligned,
    /// The length is 0.
    #[error("the length is 0")]
    Empty,
    /// `offset + length` or `start + length` exceeds 64 bits.
    #[error("the end exceeds 64 bits")]
    Overflow,
    /// The range reaches beyond the end of the file.
    #[error("the file ends at {size:#x}")]
    PastEnd {
        /// The file's length in bytes.
        size: u64,
    },
    /// The file may be shrunk by a process that holds it: it lacks `F_SEAL_SHRINK`.
    #[error("the memfd is not sealed against shrinking (F_SEAL_SHRINK)")]
    NotSealed,
    /// The file lies on hugetlbfs, which raises SIGBUS when pages run out; the mock maps and touches it.
    #[error("the mock does not take hugetlb memory")]
    Hugetlb,
    /// The range overlaps memory that is already there.
    #[error("it overlaps memory that is mapped already")]
    Overlap,
    /// The backend's memory slots are used up.
    #[error("no memory slot is left")]
    NoSlot,
    /// No memory is mapped under that slot.
    #[error("nothing is mapped there")]
    NotMapped,
    /// The file or its mapping was refused by the kernel.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// How a caller broke the rules of a guest's read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReadProblem {
    /// `run` or `commit` was called before `answer`.
    #[error("the guest's read has not been answered")]
    Unanswered,
    /// `answer` was called where no read waits for one.
    #[error("there is no read to answer")]
    NothingToAnswer,
    /// The answer's length is not the access's.
    #[error("the guest reads {expected} bytes, the answer has {given}")]
    WrongLength {
        /// The access's length in bytes.
        expected: usize,
        /// The answer's length in bytes.
        given: usize,
    },
    /// Registers were set before the read was completed by `commit`, which would lose the answer.
    #[error("registers cannot be set before the read is committed")]
    Uncommitted,
}
