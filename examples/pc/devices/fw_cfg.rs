//! QEMU's firmware configuration: entries by number, of which some are files with names. A selector at port 0x510, the
//! entry's bytes one after the other at 0x511.
//!
//! An entry that is not there reads as zeros, and so does every entry behind its end. Firmware takes that for "not set".

/// Which entry, two bytes.
pub(crate) const SELECTOR: u16 = 0x510;
/// Its next byte.
pub(crate) const DATA: u16 = 0x511;

const SIGNATURE: u16 = 0x00;
const FEATURES: u16 = 0x01;
const DIRECTORY: u16 = 0x19;
const FIRST_FILE: u16 = 0x20;

/// The longest name in the directory is one byte shorter than this.
const NAME: usize = 56;

/// A file for firmware.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) name: &'static str,
    pub(crate) content: Vec<u8>,
}

/// The configuration.
#[derive(Debug)]
pub(crate) struct FwCfg {
    files: Vec<File>,
    directory: Vec<u8>,
    selected: u16,
    position: usize,
}

impl FwCfg {
    pub(crate) fn new(files: Vec<File>) -> Self {
        let directory = directory(&files);
        Self { files, directory, selected: SIGNATURE, position: 0 }
    }

    /// The next bytes of the selected entry.
    pub(crate) fn read(&mut self, data: &mut [u8]) {
        let entry = self.entry().get(self.position..).unwrap_or_default();
        let there = entry.len().min(data.len());
        let (bytes, behind) = data.split_at_mut(there);
        bytes.copy_from_slice(&entry[..there]);
        behind.fill(0);
        self.position = self.position.saturating_add(data.len());
    }

    /// Selects the entry of that number, from its beginning.
    pub(crate) fn select(&mut self, entry: u16) {
        (self.selected, self.position) = (entry, 0);
    }

    fn entry(&self) -> &[u8] {
        match self.selected {
            SIGNATURE => b"QEMU",
            // Nothing but the two ports.
            FEATURES => &[1, 0, 0, 0],
            DIRECTORY => &self.directory,
            number => {
                let file = number.checked_sub(FIRST_FILE).and_then(|index| self.files.get(usize::from(index)));
                file.map_or(&[], |file| &file.content)
            }
        }
    }
}

/// How many files there are, and of each its length, its number and its name, numbers with the highest byte first.
fn directory(files: &[File]) -> Vec<u8> {
    let mut directory = (files.len() as u32).to_be_bytes().to_vec();
    for (file, number) in files.iter().zip(FIRST_FILE..) {
        let mut name = [0; NAME];
        let length = file.name.len().min(NAME - 1);
        name[..length].copy_from_slice(&file.name.as_bytes()[..length]);
        directory.extend((file.content.len() as u32).to_be_bytes());
        directory.extend(number.to_be_bytes());
        directory.extend([0; 2]);
        directory.extend(name);
    }
    directory
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration() -> FwCfg {
        FwCfg::new(vec![
            File { name: "etc/one", content: b"1".to_vec() },
            File { name: "etc/other", content: b"others".to_vec() },
        ])
    }

    fn entry(number: u16, length: usize) -> Vec<u8> {
        let mut configuration = configuration();
        configuration.select(number);
        let mut data = vec![0xaa; length];
        configuration.read(&mut data);
        data
    }

    #[test]
    fn it_tells_that_it_is_there_and_has_no_dma() {
        assert_eq!(entry(0, 4), b"QEMU");
        assert_eq!(entry(1, 4), [1, 0, 0, 0]);
    }

    #[test]
    fn the_directory_tells_each_file() {
        let directory = entry(0x19, 4 + 2 * 64);
        assert_eq!(directory[..4], [0, 0, 0, 2]);
        assert_eq!(directory[4..12], [0, 0, 0, 1, 0, 0x20, 0, 0]);
        assert_eq!(directory[12..20], *b"etc/one\0");
        assert_eq!(directory[68..76], [0, 0, 0, 6, 0, 0x21, 0, 0]);
        assert_eq!(directory[76..86], *b"etc/other\0");
    }

    #[test]
    fn a_files_bytes_come_one_after_the_other_and_zeros_behind_them() {
        let mut configuration = configuration();
        configuration.select(0x21);
        let mut read = |length| {
            let mut data = vec![0xaa; length];
            configuration.read(&mut data);
            data
        };
        assert_eq!(read(2), b"ot");
        assert_eq!(read(3), b"her");
        assert_eq!(read(3), b"s\0\0");
        assert_eq!(read(1), b"\0");
    }

    #[test]
    fn an_entry_that_is_not_there_reads_as_zeros() {
        for number in [0x02, 0x0e, 0x1f, 0x22, 0x8003, 0xffff] {
            assert_eq!(entry(number, 3), [0; 3], "{number:#x}");
        }
    }

    #[test]
    fn selecting_begins_anew() {
        let mut configuration = configuration();
        let mut data = [0; 3];
        configuration.read(&mut data);
        configuration.select(0);
        configuration.read(&mut data);
        assert_eq!(data, *b"QEM");
    }
}
