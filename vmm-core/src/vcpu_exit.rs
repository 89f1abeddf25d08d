//! Why a vCPU stops, and what it does next: what crosses the channels between a vCPU and its handlers.

use hypervisor::{Access, SynicWrite};

use crate::exchange::Exchange;

/// What a vCPU thread sends to the owner of what happened.
#[derive(Debug)]
pub enum VcpuMessage {
    /// The vCPU has stopped, and stays stopped until its owner gives an [`Action`].
    Exit(VcpuExit),
    /// The guest wrote to a range whose writes are posted. It runs on meanwhile.
    Posted(PostedWrite),
}

/// Why a vCPU has stopped.
#[derive(Debug)]
pub enum VcpuExit {
    /// The vCPU exists and has executed nothing.
    Init,
    /// The guest accessed an address of the owner's.
    Access {
        /// The access.
        access: Access,
        /// The registers attached to it. The same box returns with [`Action::Resume`].
        exchange: Box<Exchange>,
    },
    /// The guest called Hyper-V. The read data of the resume is the result of the call, 8 bytes.
    HypervCall {
        /// The code and flags of the call.
        input: u64,
        /// Its parameters.
        params: [u64; 2],
        /// The box for the resume.
        exchange: Box<Exchange>,
    },
    /// The guest has set up Hyper-V's synthetic interrupt controller.
    HypervSynic(SynicWrite),
    /// The vCPU is paused, as the owner requested.
    Paused {
        /// The number that the owner gave with its request.
        user: u64,
    },
}

/// A write to a range whose writes are posted.
#[derive(Debug)]
pub struct PostedWrite {
    /// The access.
    pub access: Access,
    /// The written data, where the access has no room for it: see [`data`](Self::data).
    pub long: Box<[u8]>,
}

impl PostedWrite {
    /// The bytes that the guest wrote.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        self.access.inline_data().unwrap_or(&self.long)
    }
}

/// What a stopped vCPU does next.
#[derive(Debug)]
pub enum Action {
    /// It applies the registers and the read data of the exchange, and enters the guest again.
    Resume(Box<Exchange>),
    /// It ends.
    Stop,
}

impl Action {
    /// Resumes the vCPU as it is. A read returns zeros.
    #[must_use]
    pub fn resume() -> Self {
        Self::Resume(Box::default())
    }
}

// Each message is moved through a channel, so large parts are boxed.
const _: () = assert!(size_of::<VcpuMessage>() <= 48);
