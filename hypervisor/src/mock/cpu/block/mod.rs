//! Blocks: instructions in a row that were decoded together, by where they are.
//!
//! A block is believed only while the same bytes are in memory: plugins change code through mappings of their own, without
//! notice, and so do other vCPUs. So its bytes are compared each time it is entered. It ends within its page, at the first
//! instruction after which anything may be different.

mod run;

use super::decode::{Decoded, MAX_BYTES};
use super::fast::Op;
use super::features::Features;
use crate::PAGE_SIZE;
use crate::mock::atomic::Span;

/// Places in the cache, a power of two.
const PLACES: usize = 1 << 13;
/// The most instructions of a block, and bytes.
const MAX_INSTRUCTIONS: usize = 24;
const MAX_BLOCK_BYTES: usize = 128;

/// Where a block is, and how it was decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    /// Physical address.
    physical: u64,
    /// RIP, which addresses and branches may be relative to.
    rip: u64,
    /// The size of code: 16, 32 or 64 bits.
    bits: u8,
}

/// A word of 8 bytes, and which bits of it are the block's.
struct Word {
    code: u64,
    mask: u64,
}

/// Instructions in a row.
struct Block {
    key: Key,
    /// Bytes.
    len: u64,
    words: Vec<Word>,
    ops: Vec<Op>,
    /// The same instructions, for their handlers.
    decoded: Vec<Decoded>,
}

/// The blocks that were decoded last.
pub(super) struct Blocks(Box<[Option<Box<Block>>]>);

impl Default for Blocks {
    fn default() -> Self {
        Self((0..PLACES).map(|_| None).collect())
    }
}

impl Blocks {
    /// The block at a place of a page, decoded now where it is not known. `None` where no whole instruction is there.
    #[inline]
    fn find(&mut self, key: Key, page: Span<'_>, features: Features) -> Option<&Block> {
        let offset = (key.physical % PAGE_SIZE) as usize;
        let index = (key.physical ^ key.physical >> 13) as usize % PLACES;
        let place = self.0.get_mut(index)?;
        let is_here = |block: &Block| block.key == key && block.is_in(page, offset);
        if !place.as_deref().is_some_and(is_here) {
            *place = Block::decode(key, page, offset, features).map(Box::new);
        }
        place.as_deref()
    }
}

impl Block {
    /// Whether its bytes are still at this place of their page.
    #[inline]
    fn is_in(&self, page: Span<'_>, offset: usize) -> bool {
        let first = offset & !7;
        let difference = |(index, word): (usize, &Word)| (page.load(first + 8 * index, 8) ^ word.code) & word.mask;
        self.words.iter().enumerate().map(difference).fold(0, |all, difference| all | difference) == 0
    }

    #[cold]
    fn decode(key: Key, page: Span<'_>, offset: usize, features: Features) -> Option<Self> {
        let first = offset & !7;
        let count = (MAX_BLOCK_BYTES / 8).min((PAGE_SIZE as usize - first) / 8);
        let words: Vec<u64> = (0..count).map(|index| page.load(first + 8 * index, 8)).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let code = bytes.get(offset - first..)?;
        let (mut ops, mut decoded, mut len) = (Vec::new(), Vec::new(), 0);
        while decoded.len() < MAX_INSTRUCTIONS {
            let end = code.len().min(len + MAX_BYTES as usize);
            let rip = key.rip.wrapping_add(len as u64);
            let next = code.get(len..end).and_then(|code| Decoded::of(code, rip, key.bits, features).ok());
            let Some(next) = next else { break };
            len += next.len as usize;
            let ends_block = next.ends_block();
            ops.push(Op::new(&next.instruction, len as u8, ends_block));
            decoded.push(next);
            if ends_block {
                break;
            }
        }
        if decoded.is_empty() {
            return None;
        }
        let (start, end) = (offset - first, offset - first + len);
        let words = words.into_iter().zip(0..).map_while(|(code, index)| {
            let (from, to) = (start.max(8 * index), end.min(8 * index + 8));
            let mask = |bytes: usize| u64::MAX >> (64 - 8 * bytes);
            (from < to).then(|| Word { code, mask: mask(to - from) << (8 * (from - 8 * index)) })
        });
        Some(Self { key, len: len as u64, words: words.collect(), ops, decoded })
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::MmapRegion;

    use super::*;

    /// inc rax; add [rbx], rcx; jmp to the start; and behind it a `hlt`
    const CODE: [u8; 9] = [0x48, 0xff, 0xc0, 0x48, 0x01, 0x0b, 0xeb, 0xf8, 0xf4];

    fn page() -> MmapRegion {
        let mapping = MmapRegion::new(PAGE_SIZE as usize).unwrap();
        let span = Span::of(&mapping).unwrap();
        CODE.iter().enumerate().for_each(|(at, &byte)| span.store(0x105 + at, 1, byte.into()));
        mapping
    }

    const KEY: Key = Key { physical: 0x3105, rip: 0x105, bits: 64 };

    #[test]
    fn a_block_ends_behind_its_first_branch() {
        let page = page();
        let mut blocks = Blocks::default();
        let block = blocks.find(KEY, Span::of(&page).unwrap(), Features::default()).unwrap();
        assert_eq!((block.len, block.ops.len()), (8, 3));
        assert_eq!(
            block.ops.iter().map(|op| (op.end, op.ends_block)).collect::<Vec<_>>(),
            [(3, false), (6, false), (8, true)]
        );
    }

    #[test]
    fn a_block_is_decoded_anew_where_one_of_its_bytes_is_another() {
        let page = page();
        let span = Span::of(&page).unwrap();
        let mut blocks = Blocks::default();
        let mut lens = |at, byte| {
            span.store(at, 1, byte);
            blocks.find(KEY, span, Features::default()).map(|block| (block.len, block.ops.len()))
        };
        // The byte in front of it and the one behind it are not its own.
        assert_eq!(lens(0x104, 1), Some((8, 3)));
        assert_eq!(lens(0x10d, 0x90), Some((8, 3)));
        assert_eq!(lens(0x105, 0xf4), Some((1, 1)));
        assert_eq!(lens(0x105, 0x06), None);
    }

    #[test]
    fn a_block_ends_with_the_last_whole_instruction_of_its_page() {
        let page = page();
        let span = Span::of(&page).unwrap();
        for at in 0xff0..0x1000 {
            span.store(at, 1, 0x90);
        }
        span.store(0xfff, 1, 0x48);
        let mut blocks = Blocks::default();
        let key = |offset| Key { physical: 0x3000 + offset, rip: offset, bits: 64 };
        let block = blocks.find(key(0xff8), span, Features::default()).unwrap();
        assert_eq!((block.len, block.ops.len()), (7, 7));
        assert!(blocks.find(key(0xfff), span, Features::default()).is_none());
    }
}
