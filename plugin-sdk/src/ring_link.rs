//! A vCPU's channel in shared memory.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use plugin_proto::messages::{VcpuRequest, VcpuResponse, vcpu_request};
use plugin_proto::ring::{
    Body, Direction, Fault, Flags, Header, Incoming, Mapping, Outgoing, Reader, ToPlugin, ToVmm, Waiter, Writer,
    between_looks, current_processor, turn,
};
use plugin_proto::{decode_vcpu_response, encode_vcpu_request};
use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::Timespec;

use crate::event::{HypervCallInput, Posted, SynicWrite};
use crate::registers::{Known, Registers};
use crate::vcpu::{Reason, Stop};
use crate::{Access, AddressSpace, Error};

/// How long a sleep lasts at most: so late the end of a VMM is noticed that was killed and could not say so.
const BOUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// In the environment: microseconds to look before sleeping.
const POLL_VARIABLE: &str = "OUTBOARD_POLL_US";

/// Microseconds after which, again and again, a look is followed by letting others run: longer than what a guest that does nothing
/// else takes from one exit to the next.
const YIELD_US: u32 = 16;

/// Vain waits in a row after which there is a rest from looking.
const STRIKES: u32 = 4;
/// Waits without looking, after that.
const REST: u32 = 64;

pub(crate) struct RingLink {
    writer: Writer,
    reader: Reader,
    incoming: Incoming,
    encoded: Vec<u8>,
    wait: Wait,
}

impl RingLink {
    pub(crate) fn new(memfd: &OwnedFd, lifeline: Arc<OwnedFd>) -> Result<Self, Error> {
        let mapping =
            Arc::new(Mapping::new(memfd.as_fd()).map_err(|source| Error::system("mapping a vCPU's rings", source))?);
        let asked: Option<u32> = std::env::var(POLL_VARIABLE).ok().and_then(|text| text.parse().ok());
        // The VMM has said so before it hands rings out.
        let (spins, looks) = (mapping.spins(), mapping.spins_a_microsecond());
        let spins = asked.map_or(spins, |us| us.saturating_mul(looks));
        let turn = turn(looks.saturating_mul(YIELD_US));
        Ok(Self {
            writer: Writer::new(Arc::clone(&mapping), Direction::ToVmm, spins > 0),
            reader: Reader::new(Arc::clone(&mapping), Direction::ToPlugin),
            incoming: Incoming::default(),
            encoded: Vec::new(),
            wait: Wait { mapping, lifeline, spins, rests: asked.is_none(), turn, slept: false, strikes: 0, rest: 0 },
        })
    }

    #[inline]
    fn read(&mut self) -> Result<(), Error> {
        self.wait.slept = false;
        self.reader.read(&mut self.incoming, &mut self.wait)?;
        self.wait.take_note();
        Ok(())
    }

    fn write(&mut self, record: &Outgoing<'_>) -> Result<(), Error> {
        if self.wait.mapping.is_closed() {
            return Err(Error::Disconnected);
        }
        self.writer.write(record, &mut self.wait)
    }

    /// Takes the next record of what the guest does: a posted write, or what is put into `stop`.
    #[inline]
    pub(crate) fn next_stop(&mut self, stop: &mut Stop) -> Result<Option<Posted>, Error> {
        self.read()?;
        let header = &self.incoming.header;
        let [first, second, third, ..] = header.words;
        match ToPlugin::try_from(header.kind)? {
            ToPlugin::Init => stop.renew(Reason::Init),
            ToPlugin::Paused => stop.renew(Reason::Paused(header.address)),
            ToPlugin::HypervCall => {
                stop.renew(Reason::HypervCall(HypervCallInput { input: header.address, params: [first, second] }));
            }
            ToPlugin::HypervSynic => stop.renew(Reason::HypervSynic(SynicWrite {
                // The number of an MSR has 32 bits.
                msr: header.address as u32,
                control: first,
                event_page: second,
                message_page: third,
            })),
            kind @ (ToPlugin::Read | ToPlugin::Write | ToPlugin::Posted) => {
                let body = self.incoming.body()?;
                let space = if header.flags & Flags::MMIO == 0 { AddressSpace::Pio } else { AddressSpace::Mmio };
                let access = Access { space, address: header.address, length: header.data as usize };
                let width = access.item_width(Flags::width(header.flags).into())?;
                match kind {
                    ToPlugin::Posted => return Ok(Some(Posted { access, data: body.data.to_vec(), width })),
                    ToPlugin::Read => stop.renew(Reason::Read(access)),
                    _ => stop.renew(Reason::Write(access)),
                }
                stop.width = width;
                stop.data.extend_from_slice(body.data);
                stop.registers.attach(&body)?;
            }
            ToPlugin::Response => return Err(Error::unexpected("an answer to no request")),
        }
        Ok(None)
    }

    pub(crate) fn resume(&mut self, data: &[u8], registers: &Registers) -> Result<(), Error> {
        let Some(word) = word(data).filter(|_| !registers.has_special_to_set()) else {
            return self.resume_fully(data, registers);
        };
        let header = Header {
            kind: ToVmm::Resume as u16,
            flags: registers.seen,
            // At most 8.
            data: data.len() as u32,
            words: [word, 0, 0, 0, 0],
            ..Header::default()
        };
        self.resume_simply(header, registers.regs.to_set())
    }

    #[inline(never)]
    fn resume_fully(&mut self, data: &[u8], registers: &Registers) -> Result<(), Error> {
        let header = Header { kind: ToVmm::Resume as u16, flags: registers.seen, ..Header::default() };
        let body = Body {
            data,
            regs: part(&registers.regs),
            sregs: part(&registers.sregs),
            debug_regs: part(&registers.debugregs),
        };
        self.write(&Outgoing::with_body(header, body))
    }

    /// Most resumes: what a read returns lies in one word, and at most general registers, as bytes, go with it.
    #[inline]
    fn resume_simply(&mut self, mut header: Header, regs: &[u8]) -> Result<(), Error> {
        if self.wait.mapping.is_closed() {
            return Err(Error::Disconnected);
        }
        if regs.is_empty() {
            self.writer.write_header(&header, &mut self.wait)?;
        } else {
            header.flags |= Flags::REGS;
            // `REGS_BYTES`.
            header.payload = regs.len() as u32;
            self.writer.write_part(&header, regs, &mut self.wait)?;
            self.writer.touch_next_payload(header.payload);
        }
        self.writer.touch_next();
        Ok(())
    }

    /// Sends a request that is answered at once, and takes the answer.
    pub(crate) fn exchange(&mut self, request: vcpu_request::Message) -> Result<VcpuResponse, Error> {
        let request = VcpuRequest { message: Some(request), ..Default::default() };
        let mut encoded = std::mem::take(&mut self.encoded);
        encode_vcpu_request(&request, &mut encoded)?;
        self.write(&Outgoing::message(ToVmm::Request as u16, &encoded))?;
        self.encoded = encoded;
        self.read()?;
        match ToPlugin::try_from(self.incoming.header.kind)? {
            ToPlugin::Response => Ok(decode_vcpu_response(self.incoming.payload())?),
            other => Err(Error::unexpected(format!("{other:?} in place of an answer"))),
        }
    }
}

/// Up to 8 bytes in the first of a header's words, put together in a register: what is stored in parts and loaded as a whole at
/// once makes a processor wait.
#[inline]
fn word(data: &[u8]) -> Option<u64> {
    match *data {
        [] => Some(0),
        [byte] => Some(byte.into()),
        [a, b] => Some(u16::from_ne_bytes([a, b]).into()),
        [a, b, c, d] => Some(u32::from_ne_bytes([a, b, c, d]).into()),
        [a, b, c, d, e, f, g, h] => Some(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
        // Of an access that straddles a page there are odd numbers.
        _ => None,
    }
}

/// The bytes of registers that wait to be set.
fn part<T, const N: usize>(known: &Known<T>) -> Option<&[u8; N]>
where
    T: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable,
{
    known.to_set().try_into().ok()
}

impl From<Fault> for Error {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Closed => Self::Disconnected,
            fault => Self::unexpected(fault.to_string()),
        }
    }
}

/// How this side waits. It makes no system call but `futex` and `read`, for plugins have seccomp policies of their own; so time is
/// counted in looks, of which the VMM says how many a microsecond takes.
struct Wait {
    mapping: Arc<Mapping>,
    lifeline: Arc<OwnedFd>,
    /// How many times to look.
    spins: u32,
    /// Whether looking without success is followed by a rest.
    rests: bool,
    /// At which looks others are let run: those with all of these bits.
    turn: u32,
    slept: bool,
    strikes: u32,
    rest: u32,
}

impl Wait {
    fn take_note(&mut self) {
        if self.rest > 0 {
            self.rest -= 1;
        } else if self.slept {
            self.strikes += 1;
            if self.strikes >= STRIKES {
                (self.strikes, self.rest) = (0, REST);
            }
        } else {
            self.strikes = 0;
        }
    }
}

impl Waiter for Wait {
    type Error = Error;

    fn spins(&mut self) -> u32 {
        if self.rests && self.rest > 0 { 0 } else { self.spins }
    }

    fn relax(&mut self, looks: u32) -> Result<(), Error> {
        if looks & self.turn == self.turn {
            rustix::thread::sched_yield();
        } else {
            between_looks();
        }
        Ok(())
    }

    fn sleep(&mut self, word: &AtomicU32, expected: u32) -> Result<(), Error> {
        self.slept = true;
        let slept = futex::wait(word, futex::Flags::empty(), expected, Some(&BOUND));
        if let Some(processor) = current_processor() {
            self.mapping.set_processor(processor);
        }
        match slept {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(Errno::TIMEDOUT) => match rustix::io::read(&self.lifeline, &mut [0; 1][..]) {
                Ok(0) => Err(Error::Disconnected),
                _ => Ok(()),
            },
            Err(errno) => Err(Error::system("waiting for a vCPU's ring", errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_holds_the_bytes_in_their_order_or_there_is_none() {
        let bytes: Vec<u8> = (1..=9).collect();
        for length in 0..=bytes.len() {
            let mut padded = [0; 8];
            let expected = [0, 1, 2, 4, 8].contains(&length).then(|| {
                padded[..length].copy_from_slice(&bytes[..length]);
                u64::from_ne_bytes(padded)
            });
            assert_eq!(word(&bytes[..length]), expected, "{length} bytes");
        }
    }
}
