//! Decoding. What was decoded is kept, and taken again only if the same bytes still lie in memory: others change code
//! through mappings of their own, without a word.

use iced_x86::{Code, Decoder, DecoderError, DecoderOptions, Instruction};

use super::fault::{Fault, Result};
use super::{Exec, Handler, fpu, table};

/// Most bytes an instruction has (Intel SDM volume 2, section 2.3.11).
const MAX_BYTES: u32 = 15;
/// Places in the cache, a power of two.
const PLACES: usize = 1024;

/// An instruction with what executes it; without one it is not known.
#[derive(Clone, Copy)]
pub(super) struct Decoded {
    pub(super) instruction: Instruction,
    pub(super) handler: Option<Handler>,
    /// Its bytes, lowest first, and which bits of them are meant.
    bytes: u128,
    mask: u128,
    /// RIP of the instruction, and whether it is 16-bit code.
    ip: u32,
    bits: u32,
    pub(super) len: u32,
}

impl Decoded {
    /// Its bytes.
    pub(super) fn bytes(&self) -> [u8; 16] {
        self.bytes.to_le_bytes()
    }
}

/// Instructions by where they are.
pub(super) struct Cache(Box<[Option<Decoded>]>);

impl Default for Cache {
    fn default() -> Self {
        Self(vec![None; PLACES].into())
    }
}

/// What is decoded where nothing could be.
pub(super) struct NotCode {
    pub(super) fault: Fault,
    pub(super) bytes: [u8; 16],
    pub(super) len: u32,
}

impl Cache {
    /// The instruction at CS:RIP.
    #[inline]
    pub(super) fn decode(&mut self, exec: &mut Exec) -> std::result::Result<&Decoded, NotCode> {
        let cs = &exec.state.sregs.cs;
        let (ip, limit, bits) = (exec.state.regs.rip as u32, cs.limit, if cs.db != 0 { 32 } else { 16 });
        let linear = (cs.base as u32).wrapping_add(ip);
        let (code, in_memory) = exec.bus.code(linear);
        let allowed = match limit.checked_sub(ip) {
            Some(room) => room.saturating_add(1).min(MAX_BYTES),
            None => return Err(NotCode { fault: Fault::protection(0), bytes: [0; 16], len: 0 }),
        };
        let available = allowed.min(in_memory);
        // The index is below the cache's length.
        let index = (ip ^ ip >> 12) as usize % PLACES;
        let place = match self.0.get_mut(index) {
            Some(place) => place,
            None => return Err(NotCode { fault: Fault::Unknown, bytes: [0; 16], len: 0 }),
        };
        let is_here = |known: &Decoded| {
            known.ip == ip && known.bits == bits && code & known.mask == known.bytes && known.len <= available
        };
        if !place.as_ref().is_some_and(is_here) {
            let bytes = code.to_le_bytes();
            let fresh = fresh(&bytes, available, ip, bits).map_err(|fault| {
                let cut_by_memory = in_memory < allowed;
                let fault = if fault == Fault::protection(0) && cut_by_memory { Fault::Unknown } else { fault };
                NotCode { fault, bytes, len: available }
            })?;
            return Ok(place.insert(fresh));
        }
        // Just looked at.
        place.as_ref().ok_or(NotCode { fault: Fault::Unknown, bytes: [0; 16], len: 0 })
    }
}

/// Decodes; #UD for what is no instruction, #GP for one that does not end where it must.
fn fresh(bytes: &[u8; 16], available: u32, ip: u32, bits: u32) -> Result<Decoded> {
    let available_bytes = bytes.get(..available as usize).unwrap_or_default();
    let mut decoder = Decoder::with_ip(bits, available_bytes, ip.into(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.code() == Code::INVALID {
        return Err(match decoder.last_error() {
            DecoderError::NoMoreBytes => Fault::protection(0),
            _ => Fault::invalid_opcode(),
        });
    }
    let len = instruction.len() as u32;
    let mask = u128::MAX >> (128 - 8 * len);
    let bytes = u128::from_le_bytes(*bytes) & mask;
    let handler = fpu::shared_name(instruction.code()).or_else(|| table::handler(instruction.mnemonic()));
    Ok(Decoded { instruction, handler, bytes, mask, ip, bits, len })
}
