//! The exits of a vCPU over its rings.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::Arc;
use std::time::Instant;

use hypervisor::{Access, AddressSpace, Direction, SynicWrite};
use plugin_proto::encode_bare_vcpu_response;
use plugin_proto::messages::VcpuResponse;
use plugin_proto::ring::{self, Body, Flags, Header, Incoming, Outgoing, REGS_BYTES, Reader, ToPlugin, ToVmm, Writer};
use vmm_core::{
    Action, Bytes, Exchange, LinkError, PostedWrite, RegisterSet, Registers, StopSignal, StoppedVcpu, VcpuExit,
};
use zerocopy::IntoBytes;

use super::message::Fault;
use super::ring_memory::VcpuRing;
use super::ring_wait::{Wait, WaitError};
use super::serve::{Served, decode, serve_request};
use crate::follow::Follow;
use crate::polling::{Budget, Polling};
use crate::turns::Turns;

/// General registers alone.
const REGS: RegisterSet = RegisterSet { regs: true, sregs: false, debug_regs: false };

/// The handler of one vCPU.
pub(super) struct RingHandler {
    writer: Writer,
    reader: Reader,
    stop: StopSignal,
    /// Which flags of an access's width are written: all, or none where widths were not negotiated.
    width_mask: u16,
    budget: Budget,
    incoming: Incoming,
    outgoing: Vec<u8>,
    /// Only where threads share processors.
    sharing: Option<Sharing>,
    ring: Arc<VcpuRing>,
}

/// What the thread adapts where it shares processors with others.
struct Sharing {
    follow: Follow,
    turns: Turns,
}

impl Sharing {
    fn of_this_thread() -> Self {
        Self { follow: Follow::new(), turns: Turns::of_this_thread() }
    }
}

type Result<T> = std::result::Result<T, LinkError>;

impl RingHandler {
    /// For the calling thread.
    pub(super) fn new(ring: Arc<VcpuRing>, item_widths: bool, polling: Polling, stop: StopSignal) -> Self {
        Self {
            writer: Writer::new(Arc::clone(&ring.mapping), ring::Direction::ToPlugin, polling.looks()),
            reader: Reader::new(Arc::clone(&ring.mapping), ring::Direction::ToVmm),
            stop,
            width_mask: if item_widths { u16::MAX } else { 0 },
            budget: Budget::new(polling),
            incoming: Incoming::default(),
            outgoing: Vec::new(),
            sharing: polling.shares_processors().then(Sharing::of_this_thread),
            ring,
        }
    }

    /// The header of an access's record, with the data that it writes if that fits there.
    #[inline]
    fn header(&self, kind: ToPlugin, access: &Access) -> Header {
        let space = if access.space() == AddressSpace::Mmio { Flags::MMIO } else { 0 };
        Header {
            kind: kind as u16,
            flags: space | Flags::of_width(access.width()) & self.width_mask,
            // At most a page.
            data: access.len() as u32,
            address: access.address(),
            words: [access.inline_word(), 0, 0, 0, 0],
            ..Header::default()
        }
    }

    fn write(&mut self, record: &Outgoing<'_>, deadline: Option<Instant>) -> Result<()> {
        let mut wait = Wait::new(&self.stop, &mut self.budget, deadline);
        self.writer.write(record, &mut wait).map_err(WaitError::into_link_error)
    }

    #[inline]
    fn write_header(&mut self, header: &Header, deadline: Option<Instant>) -> Result<()> {
        let mut wait = Wait::new(&self.stop, &mut self.budget, deadline);
        match self.writer.write_header(header, &mut wait) {
            Ok(()) => Ok(()),
            Err(error) => Err(error.into_link_error()),
        }
    }

    /// Writes the record of a posted write, which nothing is waited for behind.
    #[inline]
    fn write_posted(&mut self, header: &Header, deadline: Option<Instant>) -> Result<()> {
        let mut wait = Wait::new(&self.stop, &mut self.budget, deadline);
        self.writer.post_header(header, &mut wait).map_err(WaitError::into_link_error)
    }

    fn respond(&mut self, response: &VcpuResponse, deadline: Option<Instant>) -> Result<()> {
        let mut bytes = std::mem::take(&mut self.outgoing);
        encode_bare_vcpu_response(response, &mut bytes).map_err(Fault::Encode)?;
        let written = self.write(&Outgoing::message(ToPlugin::Response as u16, &bytes), deadline);
        self.outgoing = bytes;
        written
    }

    /// Writes the record of an access with general registers, which are what most plugins look at.
    #[inline(never)]
    fn write_regs(&mut self, header: Header, attached: &Registers, deadline: Option<Instant>) -> Result<()> {
        let Some(regs) = attached.regs() else { return Ok(()) };
        let header = Header { flags: header.flags | Flags::REGS, payload: REGS_BYTES as u32, ..header };
        let mut wait = Wait::new(&self.stop, &mut self.budget, deadline);
        self.writer.write_part(&header, regs.as_bytes(), &mut wait).map_err(WaitError::into_link_error)?;
        self.writer.touch_next_payload(header.payload);
        Ok(())
    }

    /// Writes the record of an access that is more than the header.
    #[inline(never)]
    fn write_more(
        &mut self,
        header: Header,
        written: &[u8],
        attached: &Registers,
        deadline: Option<Instant>,
    ) -> Result<()> {
        let body = Body {
            data: written,
            regs: attached.regs().and_then(|regs| regs.as_bytes().try_into().ok()),
            sregs: attached.sregs().and_then(|sregs| sregs.as_bytes().try_into().ok()),
            debug_regs: attached.debug_regs().and_then(|regs| regs.as_bytes().try_into().ok()),
        };
        let mut record = Outgoing::with_body(header, body);
        record.header.data = header.data;
        self.write(&record, deadline)
    }

    /// Receives the next record of the plugin.
    #[inline]
    fn receive(&mut self, deadline: Option<Instant>) -> Result<()> {
        self.budget.pre_poll_delay();
        let mut wait = Wait::new(&self.stop, &mut self.budget, deadline);
        let read = self.reader.read(&mut self.incoming, &mut wait);
        let (slept, polls) = (wait.slept, wait.polls);
        if let Err(error) = read {
            return Err(error.into_link_error());
        }
        self.budget.waited(slept, polls);
        if let Some(Sharing { follow, turns }) = &mut self.sharing {
            let at_once = !slept && polls == 0;
            follow.answered(at_once, || self.ring.mapping.processor());
            turns.answered(at_once);
            self.budget.set_yields(turns.are_long());
        }
        Ok(())
    }

    /// Receives and serves the records of the plugin until it resumes the vCPU.
    #[inline]
    fn serve(&mut self, vcpu: &mut StoppedVcpu<'_>, mut exchange: Box<Exchange>) -> Result<Action> {
        let deadline = vcpu.deadline();
        loop {
            self.receive(deadline)?;
            if self.incoming.header.kind == ToVmm::Resume as u16 {
                resume(&self.incoming, &mut exchange)?;
                return Ok(Action::Resume(exchange));
            }
            match self.request(vcpu, &mut exchange)? {
                Served::Response(response) => self.respond(&response, deadline)?,
                Served::Resume => return Ok(Action::Resume(exchange)),
                Served::Stop => return Ok(Action::Stop),
            }
        }
    }

    /// Serves a record that is no resume.
    #[cold]
    fn request(&mut self, vcpu: &mut StoppedVcpu<'_>, exchange: &mut Exchange) -> Result<Served> {
        ToVmm::try_from(self.incoming.header.kind).map_err(Fault::Ring)?;
        serve_request(decode(self.incoming.payload())?, vcpu, exchange)
    }

    /// Sends `exit` to the plugin, and serves its requests until it resumes the vCPU.
    #[inline]
    pub(super) fn handle(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action> {
        match exit {
            VcpuExit::Access { access, exchange } => {
                let kind = match access.direction() {
                    Direction::Read => ToPlugin::Read,
                    Direction::Write => ToPlugin::Write,
                };
                let (header, deadline) = (self.header(kind, &access), vcpu.deadline());
                if exchange.attached.present() == REGS && !access.has_long_data() {
                    self.write_regs(header, &exchange.attached, deadline)?;
                } else if exchange.attached.present().any() || access.has_long_data() {
                    self.write_more(header, exchange.write_data(&access), &exchange.attached, deadline)?;
                } else {
                    self.write_header(&header, deadline)?;
                }
                self.serve(vcpu, exchange)
            }
            exit => self.handle_other(exit, vcpu),
        }
    }

    /// Handles an exit that is no access.
    #[cold]
    fn handle_other(&mut self, exit: VcpuExit, vcpu: &mut StoppedVcpu<'_>) -> Result<Action> {
        let (kind, address, words, exchange) = match exit {
            VcpuExit::Access { exchange, .. } => return self.serve(vcpu, exchange),
            VcpuExit::Init => (ToPlugin::Init, 0, [0; 5], Box::default()),
            VcpuExit::Paused { user } => (ToPlugin::Paused, user, [0; 5], Box::default()),
            VcpuExit::HypervCall { input, params: [first, second], exchange } => {
                (ToPlugin::HypervCall, input, [first, second, 0, 0, 0], exchange)
            }
            VcpuExit::HypervSynic(SynicWrite { msr, control, evt_page, msg_page }) => {
                (ToPlugin::HypervSynic, msr.into(), [control, evt_page, msg_page, 0, 0], Box::default())
            }
        };
        self.write_header(&Header { kind: kind as u16, address, words, ..Header::default() }, vcpu.deadline())?;
        self.serve(vcpu, exchange)
    }

    /// Sends a posted write.
    pub(super) fn post(&mut self, write: &PostedWrite, deadline: Option<Instant>) -> Result<()> {
        let header = self.header(ToPlugin::Posted, &write.access);
        if write.access.has_long_data() {
            self.write_more(header, &write.long, &Registers::default(), deadline)
        } else {
            self.write_posted(&header, deadline)
        }
    }
}

/// Puts a resume into the exchange.
#[inline]
fn resume(incoming: &Incoming, exchange: &mut Exchange) -> Result<()> {
    let body = incoming.body().map_err(Fault::Ring)?;
    if !body.data.is_empty() {
        exchange.data = Bytes::from_slice(body.data);
    }
    if incoming.header.payload > 0 {
        set_registers(&body, &mut exchange.set);
    }
    let flags = incoming.header.flags;
    exchange.accessed = Some(RegisterSet {
        regs: flags & Flags::SAW_REGS != 0,
        sregs: flags & Flags::SAW_SREGS != 0,
        debug_regs: flags & Flags::SAW_DEBUG_REGS != 0,
    });
    Ok(())
}

#[inline(never)]
fn set_registers(body: &Body<'_>, set: &mut Registers) {
    if let Some(bytes) = body.regs {
        set.put_regs(&zerocopy::transmute!(*bytes));
    }
    if let Some(bytes) = body.sregs {
        set.put_sregs(&zerocopy::transmute!(*bytes));
    }
    if let Some(bytes) = body.debug_regs {
        set.put_debug_regs(&zerocopy::transmute!(*bytes));
    }
}
