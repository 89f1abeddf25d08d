//! A vCPU's exits over its rings.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hypervisor::{Access, AddressSpace, Direction, SynicWrite};
use plugin_proto::encode_bare_vcpu_response;
use plugin_proto::messages::VcpuResponse;
use plugin_proto::ring::{
    self, Body, Flags, Header, Incoming, Outgoing, REGS_BYTES, Reader, ToPlugin, ToVmm, Waiter, Writer,
};
use rustix::io::Errno as OsErrno;
use rustix::thread::{ClockId, futex};
use rustix::time::{Timespec, clock_gettime};
use vmm_core::{Bytes, Command, Event, Exchange, LinkError, Looks, Pump, Registers, StopSignal};
use zerocopy::IntoBytes;

use crate::follow::Follow;
use crate::polling::{Budget, Polling};
use crate::turns::Turns;
use crate::vcpu_ring::VcpuRing;
use crate::vcpu_words::{
    Asked, Fault, Setting, command, cpuid_response, decode, done_response, msrs_response, state_response,
};

/// How long a wait lasts at most where the kernel cannot wait on two words: so late a stop may be seen.
const BOUND: Duration = Duration::from_millis(50);

/// General registers alone.
const REGS: Looks = Looks { regs: true, sregs: false, debug_regs: false };

/// One vCPU's pump.
pub(crate) struct RingPump {
    writer: Writer,
    reader: Reader,
    stop: StopSignal,
    budget: Budget,
    incoming: Incoming,
    outgoing: Vec<u8>,
    setting: Option<Setting>,
    /// What the access came in that the plugin is to answer.
    exchange: Option<Box<Exchange>>,
    /// Where threads share processors.
    sharing: Option<Sharing>,
    ring: Arc<VcpuRing>,
}

/// What a thread sees to that shares processors with others.
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

impl RingPump {
    /// For the calling thread to step.
    pub(crate) fn new(ring: Arc<VcpuRing>, polling: Polling, stop: StopSignal) -> Self {
        Self {
            writer: Writer::new(Arc::clone(&ring.mapping), ring::Direction::ToPlugin, polling.looks()),
            reader: Reader::new(Arc::clone(&ring.mapping), ring::Direction::ToVmm),
            stop,
            budget: Budget::new(polling),
            incoming: Incoming::default(),
            outgoing: Vec::new(),
            setting: None,
            exchange: None,
            sharing: polling.shares_processors().then(Sharing::of_this_thread),
            ring,
        }
    }

    fn write(&mut self, record: &Outgoing<'_>, deadline: Option<Instant>) -> Result<()> {
        let mut wait = Wait { stop: &self.stop, budget: &mut self.budget, deadline, slept: false, looks: 0 };
        self.writer.write(record, &mut wait).map_err(WaitError::into_link_error)
    }

    #[inline]
    fn write_header(&mut self, header: &Header, deadline: Option<Instant>) -> Result<()> {
        let mut wait = Wait { stop: &self.stop, budget: &mut self.budget, deadline, slept: false, looks: 0 };
        match self.writer.write_header(header, &mut wait) {
            Ok(()) => Ok(()),
            Err(error) => Err(error.into_link_error()),
        }
    }

    /// Writes the record of a posted write, which nothing is waited for behind.
    #[inline]
    fn post(&mut self, header: &Header, deadline: Option<Instant>) -> Result<()> {
        let mut wait = Wait { stop: &self.stop, budget: &mut self.budget, deadline, slept: false, looks: 0 };
        self.writer.post_header(header, &mut wait).map_err(WaitError::into_link_error)
    }

    fn bare(&mut self, kind: ToPlugin, address: u64, words: [u64; 5], deadline: Option<Instant>) -> Result<()> {
        self.write_header(&Header { kind: kind as u16, address, words, ..Header::default() }, deadline)
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
        let mut wait = Wait { stop: &self.stop, budget: &mut self.budget, deadline, slept: false, looks: 0 };
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

    /// The plugin's next command, in the type that a step returns: whoever turns one result into another moves it.
    #[inline]
    fn next(&mut self, deadline: Option<Instant>) -> Result<Option<Command>> {
        loop {
            self.budget.hold_back();
            let mut wait = Wait { stop: &self.stop, budget: &mut self.budget, deadline, slept: false, looks: 0 };
            let read = self.reader.read(&mut self.incoming, &mut wait);
            let (slept, looks) = (wait.slept, wait.looks);
            if let Err(error) = read {
                return Err(error.into_link_error());
            }
            self.budget.waited(slept, looks);
            if let Some(Sharing { follow, turns }) = &mut self.sharing {
                let at_once = !slept && looks == 0;
                follow.answered(at_once, || self.ring.mapping.processor());
                turns.answered(at_once);
                self.budget.set_yields(turns.are_long());
            }
            if self.incoming.header.kind == ToVmm::Resume as u16 {
                let mut exchange = self.exchange.take().unwrap_or_default();
                return match resume(&self.incoming, &mut exchange) {
                    Ok(()) => Ok(Some(Command::Resume(exchange))),
                    Err(error) => Err(error),
                };
            }
            if let Some(command) = self.requested(deadline)? {
                return Ok(Some(command));
            }
        }
    }

    /// The command of a record that is no resume; `None` where the vCPU has not to hear of it, and it is answered.
    #[cold]
    fn requested(&mut self, deadline: Option<Instant>) -> Result<Option<Command>> {
        ToVmm::try_from(self.incoming.header.kind).map_err(Fault::Ring)?;
        let request = decode(self.incoming.payload())?;
        let setting = request.setting();
        match command(request, &mut self.exchange)? {
            Asked::Vcpu(command) => {
                self.setting = setting;
                Ok(Some(command))
            }
            Asked::Nothing { answer } => {
                // Who only asks for what is refused says no more than one who is silent.
                let wait = Wait { stop: &self.stop, budget: &mut self.budget, deadline, slept: false, looks: 0 };
                wait.time_left().map_err(WaitError::into_link_error)?;
                self.respond(&answer, deadline)?;
                Ok(None)
            }
        }
    }

    /// Tells of what is no access.
    #[cold]
    fn tell(&mut self, event: Event, deadline: Option<Instant>) -> Result<()> {
        match event {
            // They were told of where they came.
            Event::Access { .. } | Event::Posted { .. } => Ok(()),
            Event::Init => self.bare(ToPlugin::Init, 0, [0; 5], deadline),
            Event::Paused { user } => self.bare(ToPlugin::Paused, user, [0; 5], deadline),
            Event::HypervCall { input, params: [first, second], exchange } => {
                self.exchange = Some(exchange);
                self.bare(ToPlugin::HypervCall, input, [first, second, 0, 0, 0], deadline)
            }
            Event::HypervSynic(SynicWrite { msr, control, evt_page, msg_page }) => {
                let words = [control, evt_page, msg_page, 0, 0];
                self.bare(ToPlugin::HypervSynic, msr.into(), words, deadline)
            }
            Event::State(state) => self.respond(&state_response(state), deadline),
            Event::Done(done) => {
                let response = done_response(self.setting.take(), done);
                self.respond(&response, deadline)
            }
            Event::Msrs(values) => self.respond(&msrs_response(values), deadline),
            Event::Cpuid(entries) => self.respond(&cpuid_response(entries), deadline),
        }
    }
}

impl Pump for RingPump {
    #[inline]
    fn step(&mut self, event: Event, deadline: Option<Instant>) -> Result<Option<Command>> {
        match event {
            Event::Access { access, exchange } => {
                let kind = match access.direction() {
                    Direction::Read => ToPlugin::Read,
                    Direction::Write => ToPlugin::Write,
                };
                let header = header(kind, &access);
                if exchange.attached.there() == REGS && !access.has_long_data() {
                    self.write_regs(header, &exchange.attached, deadline)?;
                } else if exchange.attached.there().any() || access.has_long_data() {
                    self.write_more(header, exchange.written(&access), &exchange.attached, deadline)?;
                } else {
                    self.write_header(&header, deadline)?;
                }
                self.exchange = Some(exchange);
            }
            Event::Posted { access, ref long } => {
                let header = header(ToPlugin::Posted, &access);
                if access.has_long_data() {
                    self.write_more(header, long, &Registers::default(), deadline)?;
                } else {
                    self.post(&header, deadline)?;
                }
                return Ok(None);
            }
            event => self.tell(event, deadline)?,
        }
        self.next(deadline)
    }
}

/// The header of an access's record, with the data that it writes if that fits there.
#[inline]
fn header(kind: ToPlugin, access: &Access) -> Header {
    Header {
        kind: kind as u16,
        flags: if access.space() == AddressSpace::Mmio { Flags::MMIO } else { 0 },
        // At most a page.
        data: access.len() as u32,
        address: access.address(),
        words: [access.inline_word(), 0, 0, 0, 0],
        ..Header::default()
    }
}

/// Puts a resume into the exchange that it ends.
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
    exchange.seen = Some(Looks {
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

/// Why a wait ended without what was waited for.
enum WaitError {
    Link(LinkError),
    Ring(ring::Fault),
}

impl From<ring::Fault> for WaitError {
    fn from(fault: ring::Fault) -> Self {
        Self::Ring(fault)
    }
}

impl WaitError {
    #[cold]
    fn into_link_error(self) -> LinkError {
        match self {
            Self::Link(error) => error,
            Self::Ring(ring::Fault::Closed) => LinkError::HungUp,
            Self::Ring(fault) => Fault::Ring(fault).into(),
        }
    }
}

/// One wait of a vCPU for its plugin: for the ring's word, which the plugin can write, and the machine's stop, which it cannot.
struct Wait<'a> {
    stop: &'a StopSignal,
    budget: &'a mut Budget,
    deadline: Option<Instant>,
    slept: bool,
    /// Looks that followed the first.
    looks: u32,
}

impl Wait<'_> {
    /// How long there is to wait; `None` for as long as it takes.
    fn time_left(&self) -> std::result::Result<Option<Duration>, WaitError> {
        if self.stop.is_set() {
            return Err(WaitError::Link(LinkError::Stopped));
        }
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        match left {
            Some(Duration::ZERO) => Err(WaitError::Link(LinkError::TimedOut)),
            left => Ok(left),
        }
    }
}

/// Set where the kernel cannot wait on two words (before Linux 5.16).
static ONE_WORD_ONLY: AtomicBool = AtomicBool::new(false);

impl Waiter for Wait<'_> {
    type Error = WaitError;

    fn spins(&mut self) -> u32 {
        self.budget.spins()
    }

    fn relax(&mut self, looks: u32) -> std::result::Result<(), WaitError> {
        self.looks = looks.saturating_add(1);
        if self.budget.relax(looks) { self.time_left().map(drop) } else { Ok(()) }
    }

    fn sleep(&mut self, word: &AtomicU32, expected: u32) -> std::result::Result<(), WaitError> {
        self.slept = true;
        let left = self.time_left()?;
        let slept = if ONE_WORD_ONLY.load(Ordering::Relaxed) {
            let bound = left.map_or(BOUND, |left| left.min(BOUND));
            // It fits.
            let bound = Timespec::try_from(bound).ok();
            futex::wait(word, futex::Flags::empty(), expected, bound.as_ref())
        } else {
            sleep_on_both(word, expected, self.stop.word(), left)
        };
        match slept {
            Ok(()) | Err(OsErrno::AGAIN | OsErrno::INTR | OsErrno::TIMEDOUT) => Ok(()),
            Err(OsErrno::NOSYS) => {
                ONE_WORD_ONLY.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(errno) => Err(WaitError::Link(Fault::Futex(errno).into())),
        }
    }
}

fn sleep_on_both(word: &AtomicU32, expected: u32, stop: &AtomicU32, left: Option<Duration>) -> rustix::io::Result<()> {
    let wait = |word: &AtomicU32, expected: u32, flags| {
        let mut wait = futex::Wait::new();
        wait.val = expected.into();
        wait.uaddr = futex::WaitPtr::new(word.as_ptr().cast());
        wait.flags = flags;
        wait
    };
    let size = futex::WaitFlags::SIZE_U32;
    let waits = [wait(word, expected, size), wait(stop, 0, size | futex::WaitFlags::PRIVATE)];
    // The end is a point in time here. One too far for the kernel is as good as none.
    let end = left.and_then(|left| {
        let now = clock_gettime(ClockId::Monotonic);
        now.checked_add(Timespec::try_from(left).ok()?)
    });
    futex::waitv(&waits, futex::WaitvFlags::empty(), end.as_ref(), ClockId::Monotonic).map(drop)
}
