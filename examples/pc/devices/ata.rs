//! A disk at the first ATA channel: ports 0x1f0 to 0x1f7, and 0x3f6. It moves sectors through its data port (PIO), is
//! addressed by sector number (LBA of 28 bits), and makes no interrupt: its status says at once how a command went.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::RangeInclusive;

/// The registers of a command.
pub(crate) const COMMAND: RangeInclusive<u16> = 0x1f0..=0x1f7;
/// The first of them, through which data go: a stream, whatever the width of an access.
pub(crate) const DATA: u16 = 0x1f0;
/// Status again, and reset.
pub(crate) const CONTROL: u16 = 0x3f6;

/// Bytes.
pub(crate) const SECTOR: usize = 512;
/// The first that 28 bits do not reach.
pub(crate) const MAX_SECTORS: u64 = 1 << 28;

/// Bits of the status.
mod status {
    pub(super) const ERROR: u8 = 0x01;
    /// Data are to be moved.
    pub(super) const DATA: u8 = 0x08;
    pub(super) const SEEK_COMPLETE: u8 = 0x10;
    pub(super) const READY: u8 = 0x40;
}

/// Bits of the error register.
mod error {
    pub(super) const ABORTED: u8 = 0x04;
    pub(super) const NO_SUCH_SECTOR: u8 = 0x10;
    /// Or, for a write: the disk cannot be written.
    pub(super) const UNCORRECTABLE: u8 = 0x40;
}

/// Commands.
mod command {
    pub(super) const READ: u8 = 0x20;
    pub(super) const WRITE: u8 = 0x30;
    pub(super) const FLUSH: u8 = 0xe7;
    pub(super) const IDENTIFY: u8 = 0xec;
}

/// In the device register: the address is a sector number.
const LBA: u8 = 0x40;
/// In the device register: the channel's second device, which is not there.
const SECOND_DEVICE: u8 = 0x10;
/// In the control register.
const SOFTWARE_RESET: u8 = 0x04;

/// A disk in `D`, as far as that has whole sectors.
#[derive(Debug)]
pub(crate) struct Disk<D> {
    data: D,
    sectors: u64,
    /// From [`COMMAND`]'s second port on: features, count, three bytes of the sector's number, device. Features are never read.
    registers: [u8; 6],
    /// 0 after a command that went well.
    error: u8,
    transfer: Transfer,
    buffer: [u8; SECTOR],
    /// How much of the buffer has been moved.
    position: usize,
}

/// What moves through the data port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    Nothing,
    /// What is in the buffer, and then those sectors.
    ToGuest {
        next: u64,
        end: u64,
    },
    /// The buffer is for the first of those sectors.
    FromGuest {
        next: u64,
        end: u64,
    },
}

impl<D: Read + Write + Seek> Disk<D> {
    /// # Errors
    /// That of looking for the end of `data`.
    pub(crate) fn new(mut data: D) -> io::Result<Self> {
        let sectors = (data.seek(SeekFrom::End(0))? / SECTOR as u64).min(MAX_SECTORS);
        let mut disk = Self {
            data,
            sectors,
            registers: [0; 6],
            error: 0,
            transfer: Transfer::Nothing,
            buffer: [0; SECTOR],
            position: 0,
        };
        disk.reset();
        Ok(disk)
    }

    /// Of a port that is not [`DATA`].
    pub(crate) fn read(&self, port: u16) -> u8 {
        match port {
            0x1f1 => self.error,
            0x1f2..=0x1f6 => self.registers[usize::from(port - 0x1f1)],
            _ if self.registers[5] & SECOND_DEVICE != 0 => 0,
            _ => self.status(),
        }
    }

    fn status(&self) -> u8 {
        let error = if self.error == 0 { 0 } else { status::ERROR };
        let data = if self.transfer == Transfer::Nothing { 0 } else { status::DATA };
        status::READY | status::SEEK_COMPLETE | error | data
    }

    /// To a port that is not [`DATA`].
    pub(crate) fn write(&mut self, port: u16, value: u8) {
        match port {
            CONTROL if value & SOFTWARE_RESET != 0 => self.reset(),
            0x1f1..=0x1f6 => self.registers[usize::from(port - 0x1f1)] = value,
            0x1f7 if self.registers[5] & SECOND_DEVICE == 0 => self.begin(value),
            _ => {}
        }
    }

    /// The next bytes of a sector that the guest reads; ones where it reads none.
    pub(crate) fn read_data(&mut self, data: &mut [u8]) {
        for byte in data {
            let Transfer::ToGuest { next, end } = self.transfer else {
                *byte = super::FLOATING;
                continue;
            };
            *byte = self.buffer[self.position];
            self.position += 1;
            if self.position == SECTOR {
                self.load(next, end);
            }
        }
    }

    /// The next bytes of a sector that the guest writes; lost where it writes none.
    pub(crate) fn write_data(&mut self, data: &[u8]) {
        for byte in data {
            let Transfer::FromGuest { next, end } = self.transfer else { return };
            self.buffer[self.position] = *byte;
            self.position += 1;
            if self.position == SECTOR {
                self.store(next, end);
            }
        }
    }

    /// As after power on: registers tell that this is an ATA disk.
    fn reset(&mut self) {
        self.registers = [0, 1, 1, 0, 0, 0];
        self.finish(0);
    }

    fn finish(&mut self, error: u8) {
        self.error = error;
        self.transfer = Transfer::Nothing;
    }

    fn begin(&mut self, command: u8) {
        self.finish(0);
        self.position = 0;
        match command {
            command::READ => self.on_sectors(Self::load),
            command::WRITE => self.on_sectors(|disk, next, end| disk.transfer = Transfer::FromGuest { next, end }),
            command::FLUSH => {
                if self.data.flush().is_err() {
                    self.finish(error::UNCORRECTABLE);
                }
            }
            command::IDENTIFY => {
                self.buffer = identity(self.sectors);
                self.transfer = Transfer::ToGuest { next: 0, end: 0 };
            }
            _ => self.finish(error::ABORTED),
        }
    }

    /// Begins with the first of the sectors that the registers name, if there are such.
    fn on_sectors(&mut self, begin: impl FnOnce(&mut Self, u64, u64)) {
        let [_, count, low, middle, high, device] = self.registers;
        let first = u32::from_le_bytes([low, middle, high, device & 0x0f]).into();
        let end = first + if count == 0 { 256 } else { u64::from(count) };
        if device & LBA == 0 {
            self.finish(error::ABORTED);
        } else if end > self.sectors {
            self.finish(error::NO_SUCH_SECTOR);
        } else {
            begin(self, first, end);
        }
    }

    /// Puts the next sector into the buffer, if one is left.
    fn load(&mut self, next: u64, end: u64) {
        self.position = 0;
        if next == end {
            return self.finish(0);
        }
        self.transfer = Transfer::ToGuest { next: next + 1, end };
        let read = self.seek(next).and_then(|_| self.data.read_exact(&mut self.buffer));
        if read.is_err() {
            self.finish(error::UNCORRECTABLE);
        }
    }

    /// Takes the sector that is whole in the buffer.
    fn store(&mut self, next: u64, end: u64) {
        self.position = 0;
        self.transfer = Transfer::FromGuest { next: next + 1, end };
        let written = self.seek(next).and_then(|_| self.data.write_all(&self.buffer));
        if written.is_err() {
            self.finish(error::UNCORRECTABLE);
        } else if next + 1 == end {
            self.finish(0);
        }
    }

    fn seek(&mut self, sector: u64) -> io::Result<u64> {
        self.data.seek(SeekFrom::Start(sector * SECTOR as u64))
    }
}

/// What IDENTIFY DEVICE tells, word by word as in ATA/ATAPI-4.
fn identity(sectors: u64) -> [u8; SECTOR] {
    const HEADS: u64 = 16;
    const SECTORS_A_TRACK: u64 = 63;
    // Firmware boots from no disk without cylinders.
    let cylinders = (sectors / (HEADS * SECTORS_A_TRACK)).clamp(1, 16383);

    let mut words = [0u16; SECTOR / 2];
    // A disk that is not removable.
    words[0] = 0x0040;
    words[1] = cylinders as u16;
    words[3] = HEADS as u16;
    words[6] = SECTORS_A_TRACK as u16;
    text(&mut words[10..20], "1");
    text(&mut words[23..27], "1");
    text(&mut words[27..47], "Outboard example disk");
    // Addressed by sector number.
    words[49] = 0x0200;
    words[60] = sectors as u16;
    words[61] = (sectors >> 16) as u16;
    // ATA-4.
    words[80] = 1 << 4;

    let mut bytes = [0; SECTOR];
    for (bytes, word) in bytes.chunks_exact_mut(2).zip(words) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Two characters a word, the first in the high byte, blanks at the end.
fn text(words: &mut [u16], text: &str) {
    let mut characters = text.bytes().chain(std::iter::repeat(b' '));
    for word in words {
        *word = u16::from_be_bytes(std::array::from_fn(|_| characters.next().unwrap_or(b' ')));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const READY: u8 = 0x50;
    const DATA_READY: u8 = 0x58;
    const FAILED: u8 = 0x51;

    /// Of four sectors, each filled with its number.
    fn disk() -> Disk<Cursor<Vec<u8>>> {
        let bytes = (0..4).flat_map(|sector| [sector; SECTOR]).collect();
        Disk::new(Cursor::new(bytes)).unwrap()
    }

    fn command<D: Read + Write + Seek>(disk: &mut Disk<D>, command: u8, first: u32, count: u8) {
        let [low, middle, high, top] = first.to_le_bytes();
        for (port, value) in
            [(0x1f2, count), (0x1f3, low), (0x1f4, middle), (0x1f5, high), (0x1f6, 0xe0 | top), (0x1f7, command)]
        {
            disk.write(port, value);
        }
    }

    fn status<D: Read + Write + Seek>(disk: &Disk<D>) -> u8 {
        assert_eq!(disk.read(0x1f7), disk.read(0x3f6));
        disk.read(0x1f7)
    }

    fn data<D: Read + Write + Seek>(disk: &mut Disk<D>, length: usize) -> Vec<u8> {
        let mut data = vec![0xaa; length];
        disk.read_data(&mut data);
        data
    }

    #[test]
    fn sectors_are_read_one_after_the_other() {
        let mut disk = disk();
        command(&mut disk, 0x20, 1, 2);
        assert_eq!(status(&disk), DATA_READY);
        assert_eq!(data(&mut disk, 500), [1; 500]);
        assert_eq!(data(&mut disk, 24), [[1; 12], [2; 12]].concat());
        assert_eq!(status(&disk), DATA_READY);
        assert_eq!(data(&mut disk, 500), [2; 500]);
        assert_eq!(status(&disk), READY);
        assert_eq!(data(&mut disk, 2), [0xff; 2]);
    }

    #[test]
    fn sectors_are_written_when_they_are_whole() {
        let mut disk = disk();
        command(&mut disk, 0x30, 2, 2);
        assert_eq!(status(&disk), DATA_READY);
        disk.write_data(&[7; 511]);
        assert_eq!(disk.data.get_ref()[1024], 2);
        disk.write_data(&[8, 9]);
        assert_eq!(disk.data.get_ref()[1022..1026], [1, 1, 7, 7]);
        assert_eq!(disk.data.get_ref()[1535..1537], [8, 3]);
        disk.write_data(&[9; 511]);
        assert_eq!(status(&disk), READY);
        assert_eq!(disk.data.get_ref()[1536..], [9; 512]);
        disk.write_data(&[1]);
        assert_eq!(disk.data.get_ref().len(), 4 * SECTOR);
    }

    #[test]
    fn sectors_past_the_end_are_refused() {
        let mut disk = disk();
        // A count of 0 stands for 256.
        for (command_code, first, count) in [(0x20, 4, 1), (0x20, 3, 2), (0x30, 0x0fff_ffff, 1), (0x20, 0, 0)] {
            command(&mut disk, command_code, first, count);
            assert_eq!((status(&disk), disk.read(0x1f1)), (FAILED, 0x10), "{count} from {first}");
        }
    }

    #[test]
    fn commands_that_it_does_not_know_and_addresses_by_cylinder_are_aborted() {
        let mut disk = disk();
        for unknown in [0x00, 0x24, 0xa1, 0xc8] {
            command(&mut disk, unknown, 0, 1);
            assert_eq!((status(&disk), disk.read(0x1f1)), (FAILED, 0x04), "{unknown:#x}");
        }
        disk.write(0x1f6, 0xa0);
        disk.write(0x1f7, 0x20);
        assert_eq!((status(&disk), disk.read(0x1f1)), (FAILED, 0x04));
    }

    #[test]
    fn it_tells_who_it_is_and_how_large() {
        let mut disk = Disk::new(Cursor::new(vec![0; 0x1_0002 * SECTOR + 100])).unwrap();
        command(&mut disk, 0xec, 0, 0);
        let words: Vec<_> = data(&mut disk, SECTOR).chunks(2).map(|word| [word[0], word[1]]).collect();
        assert_eq!(status(&disk), READY);
        assert_eq!([words[60], words[61]], [[2, 0], [1, 0]]);
        assert_eq!([words[1], words[3], words[6]], [[65, 0], [16, 0], [63, 0]]);
        let model: Vec<_> = words[27..47].iter().flat_map(|[low, high]| [*high, *low]).collect();
        assert_eq!(model, *b"Outboard example disk                   ");
    }

    #[test]
    fn there_is_no_second_device() {
        let mut disk = disk();
        disk.write(0x1f6, 0xf0);
        disk.write(0x1f7, 0xec);
        assert_eq!(status(&disk), 0);
        assert_eq!(disk.read(0x1f6), 0xf0);
        assert_eq!(data(&mut disk, 1), [0xff]);
        disk.write(0x1f6, 0xe0);
        assert_eq!(status(&disk), READY);
    }

    #[test]
    fn a_reset_ends_what_is_under_way() {
        let mut disk = disk();
        command(&mut disk, 0x20, 0, 1);
        disk.write(0x3f6, 0x06);
        disk.write(0x3f6, 0x02);
        assert_eq!(status(&disk), READY);
        assert_eq!([0x1f2, 0x1f3, 0x1f4, 0x1f5, 0x1f6].map(|port| disk.read(port)), [1, 1, 0, 0, 0]);
        assert_eq!(data(&mut disk, 1), [0xff]);
    }

    #[test]
    fn a_disk_that_cannot_be_written_says_so() {
        let mut bytes = [5; SECTOR];
        let mut disk = Disk::new(ReadOnly(Cursor::new(&mut bytes))).unwrap();
        command(&mut disk, 0x30, 0, 1);
        disk.write_data(&[6; SECTOR]);
        assert_eq!((status(&disk), disk.read(0x1f1)), (FAILED, 0x40));
        command(&mut disk, 0x20, 0, 1);
        assert_eq!(data(&mut disk, SECTOR), [5; SECTOR]);
    }

    struct ReadOnly<'a>(Cursor<&'a mut [u8]>);

    impl Read for ReadOnly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(buffer)
        }
    }

    impl Write for ReadOnly<'_> {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::PermissionDenied.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for ReadOnly<'_> {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.0.seek(to)
        }
    }
}
