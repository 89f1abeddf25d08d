//! A vCPU's pipes: bare requests one way, responses behind their length the other.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{ioctl_fionread, retry_on_intr};

use super::protobuf::take_varint;
use super::{Fields, LIMIT, Message, VcpuAnswer, VcpuChannel, readable_within, vcpu_request};

/// What the pipes are asked to hold, and so the most that one read gives.
const PIPE_SIZE: usize = 0x40000;

/// The plugin's ends.
#[derive(Debug)]
pub struct VcpuPipes {
    requests: Option<OwnedFd>,
    responses: Option<OwnedFd>,
    bytes: Vec<u8>,
    /// Whether a message ever came in pieces, which older clients do not take.
    split: bool,
}

/// What a wait response tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The vCPU is there.
    Init,
    /// An access.
    Io(Io),
    /// A pause.
    User(u64),
    /// An exit of Hyper-V's, by its field.
    HyperV(u32, Fields),
}

/// An access.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// `AddressSpace`
    pub space: u64,
    /// Of its first byte.
    pub address: u64,
    /// Which way.
    pub is_write: bool,
    /// Posted.
    pub no_resume: bool,
    /// What is written, or as many bytes as are read.
    pub data: Vec<u8>,
    /// As a hint asked for.
    pub regs: Vec<u8>,
    /// As a hint asked for.
    pub sregs: Vec<u8>,
    /// As a hint asked for.
    pub debugregs: Vec<u8>,
    /// Bytes of one item; 0 where that was not negotiated.
    pub width: u64,
}

impl VcpuPipes {
    /// The ends to write and to read.
    pub fn new(requests: OwnedFd, responses: OwnedFd) -> Self {
        Self { requests: Some(requests), responses: Some(responses), bytes: Vec::new(), split: false }
    }

    /// The end to write.
    ///
    /// # Panics
    ///
    /// If it was closed.
    pub fn requests(&self) -> BorrowedFd<'_> {
        self.requests.as_ref().expect("open").as_fd()
    }

    /// The end to read.
    ///
    /// # Panics
    ///
    /// If it was closed.
    pub fn responses(&self) -> BorrowedFd<'_> {
        self.responses.as_ref().expect("open").as_fd()
    }

    /// Closes the end to write.
    pub fn close_requests(&mut self) {
        self.requests = None;
    }

    /// Closes the end to read.
    pub fn close_responses(&mut self) {
        self.responses = None;
    }

    /// Writes these bytes by one `write`.
    ///
    /// # Panics
    ///
    /// If the pipe does not take them whole.
    pub fn write(&self, bytes: &[u8]) {
        let written = retry_on_intr(|| rustix::io::write(self.requests(), bytes)).expect("writing a request");
        assert_eq!(written, bytes.len());
    }

    /// Sends a request.
    pub fn send(&self, request: &Message) {
        self.write(request.as_bytes());
    }

    /// Waits until the VMM has read all that was sent: what is sent before that is one request with it.
    ///
    /// # Panics
    ///
    /// If it does not within [`LIMIT`].
    pub fn await_taken(&self) {
        crate::wait::until("the request is read", || ioctl_fionread(self.requests()).expect("FIONREAD") == 0);
    }

    /// The next response; `None` at the pipe's end.
    ///
    /// # Panics
    ///
    /// If none comes within [`LIMIT`].
    pub fn receive(&mut self) -> Option<VcpuAnswer> {
        loop {
            let mut rest = self.bytes.as_slice();
            if let Some(length) = take_varint(&mut rest)
                && let Some(message) = rest.get(..length as usize)
            {
                let answer = VcpuAnswer::parse(message);
                let taken = self.bytes.len() - rest.len() + message.len();
                self.bytes.drain(..taken);
                return Some(answer);
            }
            self.split |= !self.bytes.is_empty();
            assert!(readable_within(self.responses(), LIMIT), "nothing from the vCPU within {LIMIT:?}");
            let mut buffer = vec![0; PIPE_SIZE];
            match retry_on_intr(|| rustix::io::read(self.responses(), &mut buffer)).expect("reading a response") {
                0 => {
                    assert!(self.bytes.is_empty(), "the end within a response: {:02x?}", self.bytes);
                    return None;
                }
                length => self.bytes.extend(&buffer[..length]),
            }
        }
    }

    /// Sees that all responses so far came whole, in one read each.
    ///
    /// # Panics
    ///
    /// If one did not.
    pub fn assert_never_split(&self) {
        assert!(!self.split, "a response came in pieces");
    }

    /// Whether a response is there or comes within `limit`.
    pub fn has_response_within(&self, limit: std::time::Duration) -> bool {
        !self.bytes.is_empty() || readable_within(self.responses(), limit)
    }

    /// The next wait response.
    ///
    /// # Panics
    ///
    /// If something else comes.
    pub fn await_exit(&mut self) -> Wait {
        let answer = self.receive().expect("a wait response, not the pipe's end");
        assert_eq!((answer.errno, answer.field), (0, Some(2)), "no wait response: {answer:?}");
        let exits = answer.body.numbers();
        let [exit] = exits.as_slice() else { panic!("not one exit: {answer:?}") };
        let exit_body = answer.body.message(*exit);
        match exit {
            1 => Wait::Init,
            2 => Wait::Io(Io {
                space: exit_body.uint(1),
                address: exit_body.uint(2),
                is_write: exit_body.uint(3) != 0,
                no_resume: exit_body.uint(4) != 0,
                data: exit_body.bytes(5).to_vec(),
                regs: exit_body.bytes(6).to_vec(),
                sregs: exit_body.bytes(7).to_vec(),
                debugregs: exit_body.bytes(8).to_vec(),
                width: exit_body.uint(200),
            }),
            3 => Wait::User(exit_body.uint(1)),
            4 | 5 => Wait::HyperV(*exit, exit_body),
            _ => panic!("unknown exit: {answer:?}"),
        }
    }

    /// The next wait response, an access.
    ///
    /// # Panics
    ///
    /// If something else comes.
    pub fn await_io(&mut self) -> Io {
        match self.await_exit() {
            Wait::Io(io) => io,
            other => panic!("{other:?} in place of an access"),
        }
    }

    /// Waits for the vCPU to be there.
    ///
    /// # Panics
    ///
    /// If something else comes first.
    pub fn await_init(&mut self) {
        self.send(&vcpu_request::wait());
        assert_eq!(self.await_exit(), Wait::Init);
    }

    /// Resumes with nothing.
    pub fn resume(&self) {
        self.send(&vcpu_request::resume());
    }

    /// Resumes from a read.
    pub fn answer(&self, data: &[u8]) {
        self.send(&vcpu_request::answer(data));
    }
}

impl VcpuChannel for VcpuPipes {
    fn ask(&mut self, request: &Message) -> VcpuAnswer {
        self.send(request);
        let answer = self.receive().expect("an answer, not the pipe's end");
        answer.assert_answers(request);
        answer
    }
}
