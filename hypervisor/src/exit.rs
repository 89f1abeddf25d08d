//! Why a vCPU came back from the guest.

use std::fmt;

/// The most bytes one access can carry: KVM hands a string instruction's data over a page at a time.
pub const MAX_ACCESS_BYTES: usize = 4096;

/// Which of the two address spaces of x86 an access goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressSpace {
    /// I/O ports, reached by `in` and `out`.
    Pio,
    /// Guest-physical memory that no slot backs.
    Mmio,
}

impl fmt::Display for AddressSpace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pio => "port",
            Self::Mmio => "mmio",
        })
    }
}

/// Which way the data of an access goes, seen from the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The guest wants data.
    Read,
    /// The guest gives data.
    Write,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// A guest's access to a port or to physical memory that no slot backs.
///
/// Its length is at least 1 and at most [`MAX_ACCESS_BYTES`]; only a string instruction on a port has a count above 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    space: AddressSpace,
    address: u64,
    direction: Direction,
    width: u8,
    count: u16,
    data: [u8; 8],
}

impl Access {
    /// An access of `count` items of `width` bytes (1 to 8: an MMIO access that straddles a page is split into odd
    /// pieces). `None` where width or length are out of bounds.
    pub fn new(space: AddressSpace, address: u64, direction: Direction, width: u8, count: u16) -> Option<Self> {
        let len = usize::from(width) * usize::from(count);
        ((1..=8).contains(&width) && (1..=MAX_ACCESS_BYTES).contains(&len)).then_some(Self {
            space,
            address,
            direction,
            width,
            count,
            data: [0; 8],
        })
    }

    /// A read of `width` bytes, 1 to 8.
    pub fn read(space: AddressSpace, address: u64, width: u8) -> Option<Self> {
        Self::new(space, address, Direction::Read, width, 1)
    }

    /// A write of `data`, 1 to 8 bytes.
    pub fn write(space: AddressSpace, address: u64, data: &[u8]) -> Option<Self> {
        let width = u8::try_from(data.len()).ok()?;
        Some(Self::new(space, address, Direction::Write, width, 1)?.with_data(data))
    }

    /// The same access with `data` inline, as far as it fits there.
    pub(crate) fn with_data(mut self, data: &[u8]) -> Self {
        if let Some(inline) = self.data.get_mut(..data.len()) {
            inline.copy_from_slice(data);
        }
        self
    }

    /// Port or memory.
    pub fn space(&self) -> AddressSpace {
        self.space
    }

    /// The first byte's address.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Read or write.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Bytes an item has, 1 to 8.
    pub fn width(&self) -> u8 {
        self.width
    }

    /// Items, more than 1 only for string instructions on a port.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// Bytes in all: width times count, 1 to [`MAX_ACCESS_BYTES`].
    #[allow(clippy::len_without_is_empty, reason = "an access is never empty")]
    pub fn len(&self) -> usize {
        usize::from(self.width) * usize::from(self.count)
    }

    /// The bytes of a write of up to 8 bytes; `None` where they are longer ([`crate::Vcpu::access_data`] has them)
    /// or the access is a read.
    pub fn inline_data(&self) -> Option<&[u8]> {
        match self.direction {
            Direction::Write => self.data.get(..self.len()),
            Direction::Read => None,
        }
    }

    /// Whether it is a write of more bytes than lie inline.
    pub fn has_long_data(&self) -> bool {
        self.direction == Direction::Write && self.len() > self.data.len()
    }

    /// [`inline_data`](Self::inline_data) as the first bytes of a word in memory, zeros behind it; 0 where there is none.
    pub fn inline_word(&self) -> u64 {
        u64::from_ne_bytes(self.data)
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} of {} bytes at {:#x}", self.space, self.direction, self.len(), self.address)
    }
}

/// Why [`crate::Vcpu::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest accessed a port or unbacked memory.
    Access(Access),
    /// The guest called Hyper-V. Answered like a read, by the call's result in 8 bytes.
    HypervCall {
        /// The call's code and flags.
        input: u64,
        /// Its two parameters: values for a fast call, else guest-physical addresses.
        params: [u64; 2],
    },
    /// The guest has set up Hyper-V's synthetic interrupt controller. Nothing is pending.
    HypervSynic(SynicWrite),
    /// A kick or a signal ended the run. No access is pending: the vCPU's state is whole.
    Interrupted,
    /// The guest halted where the backend does not wait for an interrupt itself.
    Halted,
    /// The guest shut down: a triple fault.
    Shutdown,
    /// The backend gave up on the guest.
    InternalError(InternalError),
    /// The processor refused to enter the guest (`KVM_EXIT_FAIL_ENTRY`), with its reason.
    EntryFailed(u64),
    /// A reason this program does not know, by the kernel's number.
    Unknown(u32),
}

/// A guest's write to an MSR of Hyper-V's synthetic interrupt controller, and the controller's registers after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynicWrite {
    /// The MSR it wrote.
    pub msr: u32,
    /// The control register.
    pub control: u64,
    /// The event flags page.
    pub evt_page: u64,
    /// The message page.
    pub msg_page: u64,
}

/// What a backend says of an internal error (`KVM_EXIT_INTERNAL_ERROR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InternalError {
    /// `KVM_INTERNAL_ERROR_*`: 1 emulation, 2 simultaneous exceptions, 3 event delivery, 4 unexpected exit.
    pub suberror: u32,
    /// The first words of what the kernel adds; for an emulation failure the instruction's bytes are among them.
    pub data: [u64; 6],
    /// How many words of `data` are meant.
    pub words: u8,
}

impl InternalError {
    /// What the mock reports for a vCPU that has nothing to run: emulation failure without data.
    pub const NOTHING_TO_RUN: Self = Self { suberror: 1, data: [0; 6], words: 0 };

    /// What the mock reports for an instruction that it does not know. The first three words are as the kernel has them:
    /// flags, length, bytes. Behind them are the linear address and a name of up to 16 characters, which a flag of our own
    /// tells of.
    pub(crate) fn unknown_instruction(address: u64, bytes: &[u8], name: &str) -> Self {
        let mut instruction = [0; 16];
        for (place, byte) in instruction.iter_mut().skip(1).zip(bytes) {
            *place = *byte;
        }
        let mut text = [0; 16];
        for (place, byte) in text.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        if let Some(len) = instruction.first_mut() {
            *len = bytes.len().min(15) as u8;
        }
        let [bytes_low, bytes_high] = halves(instruction);
        let [name_low, name_high] = halves(text);
        let flags = INSTRUCTION_BYTES | NAMED;
        Self { suberror: 1, data: [flags, bytes_low, bytes_high, address, name_low, name_high], words: 6 }
    }

    /// Where the instruction lies that the mock does not know, its bytes and its name; `None` for other errors.
    pub fn instruction(&self) -> Option<(u64, Vec<u8>, String)> {
        let [flags, bytes_low, bytes_high, address, name_low, name_high] = self.data;
        if self.suberror != 1 || self.words != 6 || flags != INSTRUCTION_BYTES | NAMED {
            return None;
        }
        let [len, bytes @ ..] = whole(bytes_low, bytes_high);
        let bytes = bytes.get(..len.into()).unwrap_or(&bytes);
        let name: Vec<u8> = whole(name_low, name_high).into_iter().take_while(|&byte| byte != 0).collect();
        Some((address, bytes.to_vec(), String::from_utf8_lossy(&name).into_owned()))
    }

    /// The bytes from RIP on that the emulator had fetched when it failed, 1 to 15: the instruction, and what lies behind it.
    /// `None` where the backend does not tell them (`KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`).
    pub fn instruction_bytes(&self) -> Option<Vec<u8>> {
        let [flags, low, high, ..] = self.data;
        if self.suberror != EMULATION || self.words < 3 || flags & INSTRUCTION_BYTES == 0 {
            return None;
        }
        let [len, bytes @ ..] = whole(low, high);
        Some(bytes.get(..len.into()).unwrap_or(&bytes).to_vec()).filter(|bytes| !bytes.is_empty())
    }

    /// What the kernel's words mean for the guest; `None` where they say it themselves.
    pub(crate) fn explanation(&self) -> Option<&'static str> {
        Some(match self.suberror {
            EMULATION if self.instruction().is_some() => return None,
            EMULATION if self.instruction_bytes().is_some() => {
                "the processor left this instruction to the hypervisor, and its emulator does not know it or cannot do what it asks"
            }
            EMULATION if self.words > 0 => "the guest executes where there is no memory, or none that it may execute",
            2 => "an exception came while another was delivered",
            DELIVERY => "the guest's interrupt table or stack lies where it cannot be reached as memory",
            4 => "the processor left the guest for a reason that the hypervisor does not handle",
            _ => return None,
        })
    }

    /// The words that say more than [`instruction_bytes`](Self::instruction_bytes) does: those of an emulation failure are
    /// the hardware's exit reason and what belongs to it.
    fn other_words(&self) -> &[u64] {
        let words = self.data.get(..usize::from(self.words)).unwrap_or(&self.data);
        let first = match self.suberror {
            EMULATION if self.instruction_bytes().is_some() => 3,
            // The flags.
            EMULATION => 1,
            _ => 0,
        };
        words.get(first..).unwrap_or_default()
    }
}

/// `KVM_INTERNAL_ERROR_EMULATION`.
const EMULATION: u32 = 1;
/// `KVM_INTERNAL_ERROR_DELIVERY_EV`.
const DELIVERY: u32 = 3;

/// `KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES`.
const INSTRUCTION_BYTES: u64 = 1;
/// The mock's own: address and name follow.
const NAMED: u64 = 1 << 63;

fn halves(bytes: [u8; 16]) -> [u64; 2] {
    let all = u128::from_le_bytes(bytes);
    [all as u64, (all >> 64) as u64]
}

fn whole(low: u64, high: u64) -> [u8; 16] {
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

impl fmt::Display for InternalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self.suberror {
            EMULATION => "instruction emulation failed",
            2 => "simultaneous exceptions",
            DELIVERY => "an event could not be delivered",
            4 => "unexpected exit reason",
            _ => "unknown suberror",
        };
        write!(f, "suberror {}: {meaning}", self.suberror)?;
        if let Some((address, bytes, name)) = self.instruction() {
            return fmt_unknown_to_mock(f, address, &bytes, &name);
        }
        match self.instruction_bytes() {
            Some(bytes) => fmt_bytes(f, &bytes)?,
            None if self.suberror == EMULATION && self.words > 0 => f.write_str(", no instruction could be fetched")?,
            None => {}
        }
        if let (DELIVERY, [information, ..]) = (self.suberror, self.data)
            && self.words > 0
        {
            // The vector's place in the IDT-vectoring information (Intel SDM volume 3, table 26-17).
            write!(f, " (vector {})", information & 0xff)?;
        }
        let words = self.other_words();
        if !words.is_empty() {
            f.write_str(", the kernel's words")?;
        }
        words.iter().try_for_each(|word| write!(f, " {word:#x}"))
    }
}

/// Says what the mock cannot do. A name in parentheses is no instruction's.
fn fmt_unknown_to_mock(f: &mut fmt::Formatter<'_>, address: u64, bytes: &[u8], name: &str) -> fmt::Result {
    if name == "(no memory)" {
        write!(f, ": there is no memory to execute at {address:#x}")?;
        return fmt_bytes(f, bytes);
    }
    write!(f, ": {name} at {address:#x}")?;
    fmt_bytes(f, bytes)?;
    f.write_str(": the mock does not know it; what it knows is in docs/mock-cpu.md")
}

fn fmt_bytes(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    if !bytes.is_empty() {
        f.write_str(", bytes")?;
    }
    bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_of_a_write_lies_inline_up_to_eight_bytes() {
        let short = Access::write(AddressSpace::Pio, 0, &[1, 2]).unwrap();
        assert!(!short.has_long_data());
        assert_eq!(short.inline_word().to_ne_bytes(), [1, 2, 0, 0, 0, 0, 0, 0]);
        let new = |direction, count| Access::new(AddressSpace::Pio, 0, direction, 1, count).unwrap();
        assert!(!new(Direction::Write, 8).has_long_data());
        assert!(new(Direction::Write, 9).has_long_data());
        assert!(!new(Direction::Read, 9).has_long_data());
        assert_eq!(new(Direction::Read, 9).inline_word(), 0);
    }

    #[test]
    fn an_access_has_at_least_one_byte_and_at_most_a_page() {
        let new = |width, count| Access::new(AddressSpace::Pio, 0, Direction::Read, width, count);
        assert!(new(0, 1).is_none());
        assert!(new(1, 0).is_none());
        assert!(new(9, 1).is_none());
        assert!(new(1, 4097).is_none());
        assert_eq!(new(4, 1024).map(|access| access.len()), Some(4096));
    }

    #[test]
    fn a_write_shows_its_bytes_and_a_read_none() {
        let write = Access::write(AddressSpace::Mmio, 0xd000, &[1, 2, 3]).unwrap();
        assert_eq!(write.inline_data(), Some(&[1, 2, 3][..]));
        let read = Access::read(AddressSpace::Mmio, 0xd000, 3).unwrap();
        assert_eq!(read.inline_data(), None);
        assert!(Access::write(AddressSpace::Pio, 0, &[]).is_none());
        assert!(Access::write(AddressSpace::Pio, 0, &[0; 9]).is_none());
    }

    #[test]
    fn an_internal_error_tells_suberror_meaning_and_words() {
        let said = |suberror, data, words| InternalError { suberror, data, words }.to_string();
        assert_eq!(said(1, [0; 6], 0), "suberror 1: instruction emulation failed");
        assert_eq!(
            said(1, [0, 0x30, 0, 0, 0, 0], 2),
            "suberror 1: instruction emulation failed, no instruction could be fetched, the kernel's words 0x30"
        );
        let fetched = [1, 0x00e8_d902, 0, 0x30, 0, 0];
        assert_eq!(
            said(1, fetched, 4),
            "suberror 1: instruction emulation failed, bytes d9 e8, the kernel's words 0x30"
        );
        assert_eq!(said(2, [5, 0, 0, 0, 0, 0], 1), "suberror 2: simultaneous exceptions, the kernel's words 0x5");
        assert_eq!(
            said(3, [0x8000_0b0e, 0x30, 0, 0, 0, 0], 2),
            "suberror 3: an event could not be delivered (vector 14), the kernel's words 0x80000b0e 0x30"
        );
        assert_eq!(said(4, [9, 0, 0, 0, 0, 0], 1), "suberror 4: unexpected exit reason, the kernel's words 0x9");
        assert_eq!(said(77, [0; 6], 0), "suberror 77: unknown suberror");
    }

    #[test]
    fn words_that_lie_about_their_number_are_taken_as_they_are() {
        for suberror in 0..6 {
            for words in [0, 1, 3, 6, 7, 255] {
                for word in [0, 1, u64::MAX] {
                    let error = InternalError { suberror, data: [word; 6], words };
                    assert!(error.to_string().starts_with("suberror "));
                    assert!(error.instruction_bytes().is_none_or(|bytes| (1..=15).contains(&bytes.len())));
                }
            }
        }
    }

    #[test]
    fn an_unknown_instruction_is_told_with_address_bytes_and_name() {
        let error = InternalError::unknown_instruction(0x1000, &[0xd9, 0xe8], "fld1");
        assert_eq!(error.instruction(), Some((0x1000, vec![0xd9, 0xe8], "fld1".into())));
        assert_eq!(
            error.to_string(),
            "suberror 1: instruction emulation failed: fld1 at 0x1000, bytes d9 e8: the mock does not know it; what it \
             knows is in docs/mock-cpu.md"
        );
        let mode = InternalError::unknown_instruction(0x1000, &[], "(paging)").to_string();
        assert!(mode.contains(": (paging) at 0x1000: the mock does not know it"), "{mode}");
        let nowhere = InternalError::unknown_instruction(0x8000, &[], "(no memory)").to_string();
        assert!(nowhere.ends_with("there is no memory to execute at 0x8000"), "{nowhere}");
    }
}
