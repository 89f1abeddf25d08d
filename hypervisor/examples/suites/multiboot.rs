//! Loads an ELF file of 32 bits as a Multiboot loader does (Multiboot Specification 0.6.96, section 3).

use super::board::{Board, RAM_LEN};

/// The boot information: its address in memory, and the map and strings behind it.
const INFORMATION: u64 = 0x9_0000;
const MAP: u64 = INFORMATION + 0x100;
const COMMAND_LINE: u64 = INFORMATION + 0x200;
const LOADER_NAME: u64 = INFORMATION + 0x180;

/// EAX at the entry.
const MAGIC: u64 = 0x2bad_b002;
/// That there are: memory sizes, a command line, a memory map, a loader's name.
const FLAGS: u32 = 1 | 1 << 2 | 1 << 6 | 1 << 9;

/// Loads `file`, so that the first vCPU starts at its entry.
pub(crate) fn load(board: &mut Board, file: &[u8], name: &str, arguments: &str) -> Result<(), String> {
    if file.get(..5) != Some(b"\x7fELF\x01") {
        return Err("no ELF file of 32 bits".into());
    }
    let word = |at: usize| read(file, at, 4).map(|value| value as usize);
    let (entry, headers) = (read(file, 24, 4)?, word(28)?);
    let (size, count) = (read(file, 42, 2)? as usize, read(file, 44, 2)? as usize);
    for header in (0..count).map(|index| headers + index * size) {
        // PT_LOAD
        if word(header)? == 1 {
            let (offset, address, len) = (word(header + 4)?, word(header + 12)?, word(header + 16)?);
            let bytes = file.get(offset..offset + len).ok_or("a segment beyond the file's end")?;
            board.write(address as u64, bytes)?;
        }
    }
    let mut information = [0; 0x60];
    let mut put = |at: usize, value: u32| information[at..at + 4].copy_from_slice(&value.to_le_bytes());
    put(0, FLAGS);
    put(4, 640);
    put(8, (RAM_LEN as u32 - 0x10_0000) / 1024);
    put(16, COMMAND_LINE as u32);
    put(44, 2 * 24);
    put(48, MAP as u32);
    put(64, LOADER_NAME as u32);
    board.write(INFORMATION, &information)?;
    let mut map = Vec::new();
    for (start, len) in [(0, 0xa_0000), (0x10_0000, RAM_LEN - 0x10_0000)] {
        map.extend(20_u32.to_le_bytes());
        map.extend(u64::to_le_bytes(start));
        map.extend(u64::to_le_bytes(len));
        map.extend(1_u32.to_le_bytes());
    }
    board.write(MAP, &map)?;
    board.write(LOADER_NAME, b"outboard\0")?;
    board.write(COMMAND_LINE, format!("{name} {arguments}\0").as_bytes())?;
    board.enter(entry, MAGIC, INFORMATION);
    Ok(())
}

fn read(file: &[u8], at: usize, len: usize) -> Result<u64, String> {
    let bytes = file.get(at..at + len).ok_or("the file ends too early")?;
    Ok(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
