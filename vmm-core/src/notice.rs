//! What a machine tells of its vCPUs, beside their exits.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use hypervisor::{Access, Diagnosis, GuestState, InternalError, VcpuId};
use thiserror::Error;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::error::{Error as MachineError, Result};

/// Something happened to a vCPU.
#[derive(Debug)]
pub enum Notice {
    /// It is about to execute its first instruction.
    Started(VcpuId),
    /// It is stopped, as an owner asked.
    Paused(VcpuId),
    /// It has stopped for good.
    Stopped(VcpuId, StopReason),
}

/// Why a vCPU stopped for good.
#[derive(Debug, Error)]
pub enum StopReason {
    /// The machine was told to stop.
    #[error("stopped")]
    Asked,
    /// Its owner ended it.
    #[error("ended by {owner}")]
    Released {
        /// The owner's name.
        owner: String,
    },
    /// The guest executed `hlt` where nothing can wake it.
    #[error("halted")]
    Halted,
    /// The guest shut down: a triple fault.
    #[error("triple fault{}", at(state.as_deref()))]
    Shutdown {
        /// The registers after it, where the backend gives them.
        state: Option<Box<GuestState>>,
    },
    /// The backend gave up on the guest.
    #[error("internal error: {}", Diagnosis::new(error, state.as_deref()))]
    InternalError {
        /// What the backend says.
        error: InternalError,
        /// The registers after it, where the backend gives them.
        state: Option<Box<GuestState>>,
    },
    /// The processor refused to enter the guest.
    #[error("guest entry failed, hardware reason {reason:#x}{}{}", entry_failure(*reason), at(state.as_deref()))]
    EntryFailed {
        /// `hardware_entry_failure_reason`.
        reason: u64,
        /// The registers, where the backend gives them.
        state: Option<Box<GuestState>>,
    },
    /// The guest accessed what nobody has reserved, where that is not [ignored](crate::Unclaimed::Stop).
    #[error("nobody has reserved a {access}{}", at(state.as_deref()))]
    Unclaimed {
        /// What it tried.
        access: Access,
        /// The registers at it, where the backend gives them.
        state: Option<Box<GuestState>>,
    },
    /// The way to an owner ended.
    #[error("{owner} disconnected")]
    Disconnected {
        /// The owner's name.
        owner: String,
    },
    /// An owner did not answer an access in time.
    #[error("{owner} did not answer a {access} in time")]
    TimedOut {
        /// The owner's name.
        owner: String,
        /// What it was asked.
        access: Access,
    },
    /// What an owner sent, or the way it was sent, is broken.
    #[error("{owner}: {source}")]
    Fault {
        /// The owner's name.
        owner: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registers of a resume could not be set.
    #[error("{owner} resumed with state that cannot be set: {source}")]
    BadResume {
        /// The owner's name.
        owner: String,
        /// Why not.
        source: hypervisor::Error,
    },
    /// Its thread could not be set up.
    #[error(transparent)]
    Thread(MachineError),
    /// The backend failed.
    #[error(transparent)]
    Backend(#[from] hypervisor::Error),
    /// The vCPU's thread panicked: a bug in this program.
    #[error("its thread panicked")]
    Panicked,
}

/// Who a vCPU stopped for good because of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Culprit {
    /// The guest did what no processor survives, or what the backend cannot run.
    Guest,
    /// The owner: it broke its link or its promises.
    Owner,
    /// The VMM, the backend, or the host beneath them.
    Host,
}

/// What a hardware reason means, for the middle of a sentence.
fn entry_failure(reason: u64) -> &'static str {
    /// VM-entry failure due to invalid guest state (Intel SDM volume 3, appendix C), in the low 16 bits.
    const VMX_INVALID_GUEST_STATE: u64 = 33;
    /// `VMEXIT_INVALID` (AMD64 Architecture Programmer's Manual volume 2, appendix C), of 32 bits or of 64.
    const SVM_INVALID: u64 = 0xffff_ffff;
    if reason & 0xffff == VMX_INVALID_GUEST_STATE || reason & SVM_INVALID == SVM_INVALID {
        " (the processor takes the guest's registers for invalid)"
    } else {
        ""
    }
}

/// Where the guest was, for the end of a sentence.
fn at(state: Option<&GuestState>) -> String {
    state.map(|state| format!(" at {state}")).unwrap_or_default()
}

impl StopReason {
    /// Returns who failed; `None` where nobody did: the guest, an owner or the user has ended the vCPU.
    pub fn culprit(&self) -> Option<Culprit> {
        match self {
            Self::Asked | Self::Released { .. } | Self::Halted | Self::Disconnected { .. } => None,
            Self::Shutdown { .. } | Self::InternalError { .. } | Self::EntryFailed { .. } | Self::Unclaimed { .. } => {
                Some(Culprit::Guest)
            }
            Self::TimedOut { .. } | Self::Fault { .. } | Self::BadResume { .. } => Some(Culprit::Owner),
            Self::Thread(_) | Self::Backend(_) | Self::Panicked => Some(Culprit::Host),
        }
    }

    /// Returns the vCPU's registers, where they were kept.
    pub fn state(&self) -> Option<&GuestState> {
        match self {
            Self::Shutdown { state }
            | Self::InternalError { state, .. }
            | Self::EntryFailed { state, .. }
            | Self::Unclaimed { state, .. } => state.as_deref(),
            _ => None,
        }
    }

    /// True where something failed, as opposed to a guest, an owner or the user ending the vCPU.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Asked
            | Self::Released { .. }
            | Self::Halted
            | Self::Shutdown { .. }
            | Self::InternalError { .. }
            | Self::Disconnected { .. } => false,
            Self::EntryFailed { .. }
            | Self::Unclaimed { .. }
            | Self::TimedOut { .. }
            | Self::Fault { .. }
            | Self::BadResume { .. }
            | Self::Thread(_)
            | Self::Backend(_)
            | Self::Panicked => true,
        }
    }
}

/// The receiving end of a machine's notices, for a thread that waits on descriptors.
#[derive(Debug)]
pub struct Notices {
    /// The notices themselves.
    pub channel: Receiver<Notice>,
    event: Arc<EventFd>,
}

impl Notices {
    /// Takes back the descriptor's readiness. Call it before draining the channel: a notice is sent first, and its
    /// event written after.
    pub fn clear(&self) {
        // Nothing to read means nothing to take back.
        let _ = self.event.read();
    }
}

impl AsFd for Notices {
    /// Readable when there may be notices.
    #[allow(unsafe_code, reason = "vmm-sys-util's EventFd lends out only a raw descriptor")]
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the eventfd is open as long as `self` is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.event.as_raw_fd()) }
    }
}

/// The sending end.
#[derive(Clone, Debug)]
pub(crate) struct Notifier {
    channel: Sender<Notice>,
    event: Arc<EventFd>,
}

impl Notifier {
    pub(crate) fn new() -> Result<(Self, Notices)> {
        let event = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)
            .map_err(|source| MachineError::EventFd { purpose: "notices of vCPUs", source })?;
        let event = Arc::new(event);
        let (sender, receiver) = crossbeam_channel::unbounded();
        let notifier = Self { channel: sender, event: Arc::clone(&event) };
        Ok((notifier, Notices { channel: receiver, event }))
    }

    pub(crate) fn send(&self, notice: Notice) {
        // Nobody may be listening any more, and an eventfd that is full is readable as it should be.
        let _ = self.channel.send(notice);
        let _ = self.event.write(1);
    }
}
