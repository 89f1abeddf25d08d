//! The plugin's end of a vCPU's channel, of either kind.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use plugin_proto::messages::VcpuResponse;
use plugin_proto::ring::{
    Direction, Fault, Header, Incoming, Mapping, Outgoing, Reader, ToPlugin, ToVmm, Waiter, Writer,
};
use plugin_proto::{ResponseReader, decode_vcpu_response};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::thread::futex;

pub(super) enum VcpuEnd {
    Pipes(PipeEnd),
    Ring(RingEnd),
}

/// What came from a vCPU.
#[derive(Debug)]
pub(super) enum Came {
    /// A message: what is in it is for the caller to see.
    Response(Box<VcpuResponse>),
    /// A record that is none.
    Record(ToPlugin),
    /// Nothing, in the time there was.
    Nothing,
    /// Something that the ring makes no sense of, which is no wonder where this side has scribbled.
    Fault,
}

impl VcpuEnd {
    /// Sends a request, if there is room for it.
    pub(super) fn send(&mut self, request: &[u8]) {
        match self {
            Self::Pipes(pipes) => {
                let _ = rustix::io::write(&pipes.write, request);
            }
            Self::Ring(ring) => ring.send(&Outgoing::message(ToVmm::Request as u16, request)),
        }
    }

    /// Sends a header with what follows it, where there is a ring.
    pub(super) fn send_record(&mut self, header: Header, payload: &[u8]) {
        if let Self::Ring(ring) = self {
            let mut record = Outgoing::message(header.kind, payload);
            record.header = Header { payload: record.header.payload, ..header };
            ring.send(&record);
        }
    }

    /// What comes until `end`.
    pub(super) fn receive(&mut self, end: Instant) -> Came {
        match self {
            Self::Pipes(pipes) => pipes.receive(end),
            Self::Ring(ring) => ring.receive(end),
        }
    }

    /// Writes a word where the VMM may not expect it.
    pub(super) fn scribble(&mut self, offset: u64, value: u64) {
        if let Self::Ring(ring) = self {
            ring.is_mine_to_blame = true;
            // Past its end is an error.
            let _ = rustix::io::pwrite(&ring.memfd, &value.to_ne_bytes(), offset);
        }
    }
}

pub(super) struct PipeEnd {
    write: OwnedFd,
    read: OwnedFd,
    reader: ResponseReader,
}

impl PipeEnd {
    pub(super) fn new(write: OwnedFd, read: OwnedFd) -> Self {
        for end in [&write, &read] {
            fcntl_setfl(end, fcntl_getfl(end).unwrap() | OFlags::NONBLOCK).unwrap();
        }
        Self { write, read, reader: ResponseReader::new() }
    }

    fn receive(&mut self, end: Instant) -> Came {
        loop {
            if let Some(response) = self.reader.next_response().expect("the VMM's messages are good") {
                return Came::Response(Box::new(response));
            }
            let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).unwrap();
            let mut fds = [PollFd::from_borrowed_fd(self.read.as_fd(), PollFlags::IN)];
            if poll(&mut fds, Some(&left)).unwrap_or(0) == 0 {
                return Came::Nothing;
            }
            let mut bytes = [0; 0x4000];
            match rustix::io::read(&self.read, &mut bytes) {
                Ok(0) | Err(_) => return Came::Nothing,
                Ok(len) => self.reader.feed(&bytes[..len]),
            }
        }
    }
}

pub(super) struct RingEnd {
    memfd: OwnedFd,
    writer: Writer,
    reader: Reader,
    is_mine_to_blame: bool,
}

impl RingEnd {
    pub(super) fn new(memfd: OwnedFd) -> Self {
        let mapping = Arc::new(Mapping::new(memfd.as_fd()).unwrap());
        let writer = Writer::new(Arc::clone(&mapping), Direction::ToVmm, false);
        let reader = Reader::new(mapping, Direction::ToPlugin);
        Self { memfd, writer, reader, is_mine_to_blame: false }
    }

    fn send(&mut self, record: &Outgoing<'_>) {
        // With half a record in it the ring is of no use, which the VMM must bear.
        if self.writer.write(record, &mut Until(Instant::now())).is_err() {
            self.is_mine_to_blame = true;
        }
    }

    fn receive(&mut self, end: Instant) -> Came {
        let mut incoming = Incoming::default();
        match self.reader.read(&mut incoming, &mut Until(end)) {
            Ok(()) => {}
            Err(Gone::Time | Gone::Fault(Fault::Closed)) => return Came::Nothing,
            Err(Gone::Fault(fault)) => {
                assert!(self.is_mine_to_blame, "{fault}");
                return Came::Fault;
            }
        }
        match ToPlugin::try_from(incoming.header.kind) {
            Ok(ToPlugin::Response) if self.is_mine_to_blame => Came::Fault,
            Ok(ToPlugin::Response) => {
                let response = decode_vcpu_response(incoming.payload()).expect("the VMM's messages are good");
                Came::Response(Box::new(response))
            }
            Ok(kind) => {
                let body = incoming.body();
                assert!(self.is_mine_to_blame || body.is_ok(), "{body:?}");
                Came::Record(kind)
            }
            Err(fault) => {
                assert!(self.is_mine_to_blame, "{fault}");
                Came::Fault
            }
        }
    }
}

/// Waits until then.
struct Until(Instant);

enum Gone {
    Time,
    Fault(Fault),
}

impl From<Fault> for Gone {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl Waiter for Until {
    type Error = Gone;

    fn spins(&mut self) -> u32 {
        0
    }

    fn sleep(&mut self, word: &AtomicU32, expected: u32) -> Result<(), Gone> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left == Duration::ZERO {
            return Err(Gone::Time);
        }
        let left = Timespec::try_from(left).unwrap();
        // The word has changed, or it is looked at once more: both are well.
        let _ = futex::wait(word, futex::Flags::empty(), expected, Some(&left));
        Ok(())
    }
}
