//! A vCPU: waiting for its events, and resuming it.

use std::sync::Mutex;

use libc::c_void;
use plugin_sdk::{Access, AddressSpace, Error, Event, State};

use crate::abi::{self, VcpuEvent, What, event_kind};
use crate::errno::{Errno, Result};
use crate::export::export;
use crate::pointers::{Handle, Out};

/// `struct crosvm_vcpu`.
pub(crate) struct Vcpu {
    sdk: plugin_sdk::Vcpu,
    /// What C has pointers to until the next wait or resume: the data of an access, the result of a hypercall.
    data: Box<[u8]>,
    result: Box<u64>,
    /// The items of the access that was reported last, until the next wait or resume.
    items: Option<Items>,
}

/// What one access moves.
#[derive(Clone, Copy)]
struct Items {
    width: u32,
    count: u32,
}

impl Items {
    fn new(width: usize, count: usize) -> Option<Self> {
        // No message is as long as 4 GiB.
        Some(Self { width: width as u32, count: count as u32 })
    }
}

impl Vcpu {
    pub(crate) fn new(sdk: plugin_sdk::Vcpu) -> Self {
        Self { sdk, data: Box::default(), result: Box::default(), items: None }
    }

    /// Uses the state of the vCPU, which must stand at an event.
    pub(crate) fn with_state<R>(
        &mut self,
        ask: impl FnOnce(&mut State<'_>) -> std::result::Result<R, Error>,
    ) -> Result<R> {
        let mut event = self.sdk.held().ok_or(Errno::PROTO)?;
        let state = event.state().ok_or(Errno::PROTO)?;
        Ok(ask(state)?)
    }

    fn wait(&mut self) -> Result<VcpuEvent> {
        self.items = None;
        // When the vCPU stands at an event already, C may have put its answer into the data.
        let again = self.sdk.held().is_some();
        let event = self.sdk.wait().map_err(|error| match error {
            // As it has always been; the other functions say `EPIPE`.
            Error::Disconnected => Errno::INVAL,
            other => other.into(),
        })?;
        let mut data = |new: &[u8]| {
            if !again {
                self.data = new.into();
            }
            self.data.as_mut_ptr()
        };
        Ok(match event {
            Event::Init(_) => VcpuEvent::new(event_kind::INIT, What { bytes: [0; 64] }),
            Event::Read(read) => {
                let access = read.access();
                self.items = Items::new(read.width(), read.count());
                io_access(access, data(&vec![0; access.length]), false, false)
            }
            Event::Write(write) => {
                self.items = Items::new(write.width(), write.count());
                io_access(write.access(), data(write.data()), true, false)
            }
            Event::Posted(posted) => {
                self.items = Items::new(posted.width(), posted.count());
                io_access(posted.access, data(&posted.data), true, true)
            }
            Event::Paused(paused) => {
                let user = std::ptr::with_exposed_provenance_mut::<c_void>(paused.user() as usize);
                VcpuEvent::new(event_kind::PAUSED, What { user })
            }
            Event::HypervCall(call) => {
                if !again {
                    *self.result = 0;
                }
                let (input, params) = (call.call().input, call.call().params);
                let hyperv_call = abi::HypervCall { input, result: &raw mut *self.result, params };
                VcpuEvent::new(event_kind::HYPERV_HCALL, What { hyperv_call })
            }
            Event::HypervSynic(synic) => {
                let write = synic.write();
                let hyperv_synic = abi::HypervSynic {
                    msr: write.msr,
                    reserved: 0,
                    control: write.control,
                    evt_page: write.event_page,
                    msg_page: write.message_page,
                };
                VcpuEvent::new(event_kind::HYPERV_SYNIC, What { hyperv_synic })
            }
            // The header has no name for it.
            _ => return Err(Errno::PROTO),
        })
    }

    fn resume(&mut self) -> Result<()> {
        match self.sdk.held().ok_or(Errno::PROTO)? {
            Event::Read(read) => read.answer(&self.data)?,
            Event::HypervCall(call) => call.answer(*self.result)?,
            other => other.resume()?,
        }
        self.items = None;
        Ok(())
    }
}

fn io_access(access: Access, data: *mut u8, is_write: bool, no_resume: bool) -> VcpuEvent {
    let io_access = abi::IoAccess {
        address_space: match access.space {
            AddressSpace::Pio => 0,
            AddressSpace::Mmio => 1,
        },
        padding: 0,
        address: access.address,
        data,
        // No message is as long as 4 GiB.
        length: access.length as u32,
        is_write: is_write.into(),
        no_resume: no_resume.into(),
        reserved: [0; 2],
    };
    VcpuEvent::new(event_kind::IO_ACCESS, What { io_access })
}

export! {
    fn crosvm_vcpu_wait(vcpu: Handle<Mutex<Vcpu>>, out: Out<VcpuEvent>) -> Result<()> {
        let out = out.check()?;
        out.set(vcpu.lock()?.wait()?);
        Ok(())
    }

    fn crosvm_vcpu_resume(vcpu: Handle<Mutex<Vcpu>>) -> Result<()> {
        vcpu.lock()?.resume()
    }

    fn outboard_vcpu_get_io_items(vcpu: Handle<Mutex<Vcpu>>, width: Out<u32>, count: Out<u32>) -> Result<()> {
        let (width, count) = (width.check()?, count.check()?);
        let items = vcpu.lock()?.items.ok_or(Errno::PROTO)?;
        width.set(items.width);
        count.set(items.count);
        Ok(())
    }
}
