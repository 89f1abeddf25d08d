//! The records of the hot exchange, of fixed layout.
//!
//! A record is a [`Header`] of one cache line and what follows it. For an access and its answer that is a [`Body`]: data that
//! has no place in the header, and registers as the kernel lays them out. For everything else there are protobuf messages.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Fault;
use crate::limits::MAX_STRING_DATA;

/// Bytes of `kvm_regs`.
pub const REGS_BYTES: usize = 144;
/// Bytes of `kvm_sregs`.
pub const SREGS_BYTES: usize = 312;
/// Bytes of `kvm_debugregs`.
pub const DEBUG_REGS_BYTES: usize = 128;

/// Bytes of data that lie in the header itself.
const INLINE: usize = 40;

/// The kinds of records that the VMM writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ToPlugin {
    /// The vCPU is there.
    Init = 1,
    /// The guest reads: `address`, and in `data` how many bytes.
    Read = 2,
    /// The guest writes, and waits.
    Write = 3,
    /// The guest writes, and does not wait. Nothing is answered.
    Posted = 4,
    /// The vCPU was paused: `address` is the number given with the pause.
    Paused = 5,
    /// A hypercall: its input in `address`, its two parameters in `words`.
    HypervCall = 6,
    /// The SynIC was written: the MSR in `address`; control, event and message page in `words`.
    HypervSynic = 7,
    /// A `VcpuResponse`, the answer to a request.
    Response = 8,
}

/// The kinds of records that the plugin writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ToVmm {
    /// The vCPU is to run on: data of a read or the result of a hypercall, and registers to be set.
    Resume = 1,
    /// A `VcpuRequest`, but `wait` and `resume`.
    Request = 2,
}

impl TryFrom<u16> for ToPlugin {
    type Error = Fault;

    fn try_from(kind: u16) -> Result<Self, Fault> {
        Ok(match kind {
            1 => Self::Init,
            2 => Self::Read,
            3 => Self::Write,
            4 => Self::Posted,
            5 => Self::Paused,
            6 => Self::HypervCall,
            7 => Self::HypervSynic,
            8 => Self::Response,
            kind => return Err(Fault::UnknownKind { kind }),
        })
    }
}

impl TryFrom<u16> for ToVmm {
    type Error = Fault;

    fn try_from(kind: u16) -> Result<Self, Fault> {
        Ok(match kind {
            1 => Self::Resume,
            2 => Self::Request,
            kind => return Err(Fault::UnknownKind { kind }),
        })
    }
}

/// The bits of a header's `flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags;

impl Flags {
    /// The access is to memory, not to a port.
    pub const MMIO: u16 = 1;
    /// General registers follow.
    pub const REGS: u16 = 1 << 1;
    /// Special registers follow.
    pub const SREGS: u16 = 1 << 2;
    /// Debug registers follow.
    pub const DEBUG_REGS: u16 = 1 << 3;
    /// All of them.
    const PARTS: u16 = Self::REGS | Self::SREGS | Self::DEBUG_REGS;
    /// In a resume: the plugin has looked at the general registers that came with the access.
    pub const SAW_REGS: u16 = 1 << 4;
    /// In a resume: the same of the special registers.
    pub const SAW_SREGS: u16 = 1 << 5;
    /// In a resume: the same of the debug registers.
    pub const SAW_DEBUG_REGS: u16 = 1 << 6;
    /// The next slot goes on with the payload. Neither set nor seen by those who write and read records.
    pub const MORE: u16 = 1 << 7;
    /// In an access: the width of its items in bytes, 1 to 8; 0 where it is not reported.
    const WIDTH: u16 = 0xf << Self::WIDTH_SHIFT;
    const WIDTH_SHIFT: u16 = 8;

    /// The flags that report a width of 1 to 8 bytes.
    #[must_use]
    #[inline]
    pub fn of_width(width: u8) -> u16 {
        (u16::from(width) << Self::WIDTH_SHIFT) & Self::WIDTH
    }

    /// The width that an access's flags report: 0 if none, and up to 15 where the writer is hostile.
    #[must_use]
    #[inline]
    pub fn width(flags: u16) -> u8 {
        // Four bits.
        ((flags & Self::WIDTH) >> Self::WIDTH_SHIFT) as u8
    }
}

/// The beginning of every record, in a slot of one cache line. Any 64 bytes are one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Header {
    /// By it the reader knows that the record is there: the writer sees to it, and the reader gives 0.
    pub stamp: u32,
    /// A [`ToPlugin`] or a [`ToVmm`].
    pub kind: u16,
    /// Of [`Flags`].
    pub flags: u16,
    /// Bytes of payload that go with the header.
    pub payload: u32,
    /// Bytes of data; they lie in `words`, or, where they are more than those hold, first in the payload.
    pub data: u32,
    /// What the kind says.
    pub address: u64,
    /// What the kind says.
    pub words: [u64; 5],
}

const _: () = assert!(size_of::<Header>() == 64 && size_of::<[u64; 5]>() == INLINE);

/// What an access brings, or a resume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body<'a> {
    /// What the guest writes, or what a read returns.
    pub data: &'a [u8],
    /// `kvm_regs`.
    pub regs: Option<&'a [u8; REGS_BYTES]>,
    /// `kvm_sregs`.
    pub sregs: Option<&'a [u8; SREGS_BYTES]>,
    /// `kvm_debugregs`.
    pub debug_regs: Option<&'a [u8; DEBUG_REGS_BYTES]>,
}

impl Header {
    /// A record's line, the first word's lower half left to the stamp. Put together in registers: what is stored in parts and
    /// loaded as a whole at once makes a processor wait.
    #[inline]
    pub(super) fn as_line(&self) -> [u64; 8] {
        let [a, b, c, d, e] = self.words;
        let first = u64::from(self.kind) << 32 | u64::from(self.flags) << 48;
        let second = u64::from(self.payload) | u64::from(self.data) << 32;
        [first, second, self.address, a, b, c, d, e]
    }

    /// The header that a line holds.
    #[inline]
    pub(super) fn of_line([first, second, address, a, b, c, d, e]: [u64; 8]) -> Self {
        Self {
            stamp: 0,
            kind: (first >> 32) as u16,
            flags: (first >> 48) as u16,
            payload: second as u32,
            data: (second >> 32) as u32,
            address,
            words: [a, b, c, d, e],
        }
    }

    /// Takes `data` into the header, if it fits there.
    #[inline]
    pub fn put_inline(&mut self, data: &[u8]) -> bool {
        if data.is_empty() {
            return true;
        }
        let Some(to) = self.words.as_mut_bytes().get_mut(..data.len()) else { return false };
        to.copy_from_slice(data);
        // At most `INLINE`.
        self.data = data.len() as u32;
        true
    }

    /// The body of this header, `payload` being what followed it.
    ///
    /// # Errors
    /// [`Fault::BadLength`] where the parts are not as long as header and payload say.
    #[inline]
    pub fn body<'a>(&'a self, payload: &'a [u8]) -> Result<Body<'a>, Fault> {
        let length = if self.kind == ToPlugin::Read as u16 { 0 } else { self.data as usize };
        // Most are this.
        if self.flags & Flags::PARTS == 0 && length <= INLINE && payload.is_empty() {
            return Ok(Body { data: self.words.as_bytes().get(..length).unwrap_or_default(), ..Body::default() });
        }
        self.long_body(length, payload)
    }

    fn long_body<'a>(&'a self, length: usize, payload: &'a [u8]) -> Result<Body<'a>, Fault> {
        let bad = Fault::BadLength { kind: self.kind, length: self.payload };
        if length > MAX_STRING_DATA {
            return Err(bad);
        }
        let (data, rest) = if length <= INLINE {
            (self.words.as_bytes().get(..length).ok_or(bad)?, payload)
        } else {
            let padded = length.next_multiple_of(size_of::<u64>());
            let (data, rest) = payload.split_at_checked(padded).ok_or(bad)?;
            (data.get(..length).ok_or(bad)?, rest)
        };
        let mut rest = rest;
        let body = Body {
            data,
            regs: part(self.flags & Flags::REGS != 0, &mut rest, bad)?,
            sregs: part(self.flags & Flags::SREGS != 0, &mut rest, bad)?,
            debug_regs: part(self.flags & Flags::DEBUG_REGS != 0, &mut rest, bad)?,
        };
        if rest.is_empty() { Ok(body) } else { Err(bad) }
    }
}

/// Takes `N` bytes off the front of `rest`, if they are there by the flags.
fn part<'a, const N: usize>(is_there: bool, rest: &mut &'a [u8], bad: Fault) -> Result<Option<&'a [u8; N]>, Fault> {
    if !is_there {
        return Ok(None);
    }
    let (part, after) = rest.split_first_chunk().ok_or(bad)?;
    *rest = after;
    Ok(Some(part))
}

/// A record that was read: copies, which its writer cannot change any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// The header.
    pub header: Header,
    /// What followed it, in the words that it came in.
    pub(super) words: Vec<u64>,
    /// How many bytes of those are meant.
    pub(super) bytes: usize,
}

impl Incoming {
    /// What followed the header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.words.as_bytes().get(..self.bytes).unwrap_or_default()
    }

    /// Its body, as [`Header::body`] says.
    ///
    /// # Errors
    /// As there.
    #[inline]
    pub fn body(&self) -> Result<Body<'_>, Fault> {
        self.header.body(self.payload())
    }
}

/// A record to be written: a header, and parts that follow it, each filled up to 8 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The header.
    pub header: Header,
    pub(super) parts: [&'a [u8]; 4],
}

impl<'a> Outgoing<'a> {
    /// A record that is all header.
    #[must_use]
    pub fn bare(header: Header) -> Self {
        Self { header, parts: [&[]; 4] }
    }

    /// A record with a message behind it, of at most [`MAX_PAYLOAD`](super::MAX_PAYLOAD) bytes.
    #[must_use]
    pub fn message(kind: u16, message: &'a [u8]) -> Self {
        // Both limits of a message are below 32 bits.
        let header = Header { kind, payload: message.len() as u32, ..Header::default() };
        Self { header, parts: [message, &[], &[], &[]] }
    }

    /// A record with a body: the header's lengths, inline data and flags of parts are made from it.
    #[must_use]
    #[inline]
    pub fn with_body(header: Header, body: Body<'a>) -> Self {
        let Body { data: [], regs: None, sregs: None, debug_regs: None } = body else {
            return Self::with_long_body(header, body);
        };
        Self::bare(header)
    }

    fn with_long_body(mut header: Header, body: Body<'a>) -> Self {
        let mut parts: [&[u8]; 4] = [&[]; 4];
        let [data, regs, sregs, debug_regs] = &mut parts;
        if !header.put_inline(body.data) {
            // At most `MAX_STRING_DATA` bytes.
            header.data = body.data.len() as u32;
            *data = body.data;
        }
        if let Some(bytes) = body.regs {
            header.flags |= Flags::REGS;
            *regs = bytes;
        }
        if let Some(bytes) = body.sregs {
            header.flags |= Flags::SREGS;
            *sregs = bytes;
        }
        if let Some(bytes) = body.debug_regs {
            header.flags |= Flags::DEBUG_REGS;
            *debug_regs = bytes;
        }
        if header.flags & Flags::PARTS == 0 && data.is_empty() {
            return Self { header, parts };
        }
        header.payload = parts.iter().map(|part| part.len().next_multiple_of(size_of::<u64>()) as u32).sum();
        Self { header, parts }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What follows the header on its way.
    fn payload(record: &Outgoing<'_>) -> Vec<u8> {
        let padded = |part: &&[u8]| {
            let mut bytes = part.to_vec();
            bytes.resize(part.len().next_multiple_of(8), 0);
            bytes
        };
        record.parts.iter().flat_map(padded).collect()
    }

    #[test]
    fn flags_carry_each_width_beside_the_others() {
        for width in 0..=8 {
            let flags = Flags::of_width(width) | Flags::MMIO | Flags::PARTS | Flags::MORE;
            assert_eq!(Flags::width(flags), width);
            assert_eq!(flags & 0xff, Flags::MMIO | Flags::PARTS | Flags::MORE);
        }
    }

    proptest! {
        #[test]
        fn a_body_arrives_as_it_was(
            data in prop::collection::vec(any::<u8>(), 0..=MAX_STRING_DATA),
            regs in any::<Option<u8>>(),
            sregs in any::<Option<u8>>(),
            debug_regs in any::<Option<u8>>(),
        ) {
            let regs = regs.map(|byte| [byte; REGS_BYTES]);
            let sregs = sregs.map(|byte| [byte; SREGS_BYTES]);
            let debug_regs = debug_regs.map(|byte| [byte; DEBUG_REGS_BYTES]);
            let body = Body {
                data: &data,
                regs: regs.as_ref(),
                sregs: sregs.as_ref(),
                debug_regs: debug_regs.as_ref(),
            };
            let record = Outgoing::with_body(Header { kind: ToPlugin::Write as u16, ..Header::default() }, body);
            let payload = payload(&record);
            prop_assert_eq!(payload.len(), record.header.payload as usize);
            prop_assert_eq!(record.header.body(&payload), Ok(body));
        }

        /// Any header with any payload is a body or a fault, and never more data than an access has.
        #[test]
        fn no_bytes_do_harm(header in any::<[u8; 64]>(), payload in prop::collection::vec(any::<u8>(), 0..8192)) {
            let header = Header::read_from_bytes(&header).unwrap();
            if let Ok(body) = header.body(&payload) {
                prop_assert!(body.data.len() <= MAX_STRING_DATA);
            }
        }

        #[test]
        fn lengths_that_do_not_fit_each_other_are_faults(
            data in 0u32..10_000,
            flags in 0u16..16,
            length in 0usize..6000,
        ) {
            let header = Header { kind: ToVmm::Resume as u16, flags, data, ..Header::default() };
            let parts = [(Flags::REGS, REGS_BYTES), (Flags::SREGS, SREGS_BYTES), (Flags::DEBUG_REGS, DEBUG_REGS_BYTES)];
            let parts: usize = parts.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, bytes)| bytes).sum();
            let outside = if data <= 40 { 0 } else { (data as usize).next_multiple_of(8) };
            let fits = data <= 4096 && length == outside + parts;
            prop_assert_eq!(header.body(&vec![0; length]).is_ok(), fits);
        }
    }
}
