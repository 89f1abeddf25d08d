//! Why a guest could not go on, in words: what an internal error means, where the vCPU was, and which instruction it was at.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

use std::fmt;

use iced_x86::{Decoder, DecoderOptions, FastFormatter};
use kvm_bindings::{kvm_regs, kvm_sregs};

use crate::{InternalError, Result, Vcpu};

/// EFER.LMA: the processor is in IA-32e mode (Intel SDM volume 3, section 2.2.1).
const EFER_LMA: u64 = 1 << 10;

/// The registers of a vCPU whose guest could not go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuestState {
    regs: kvm_regs,
    sregs: kvm_sregs,
}

impl GuestState {
    /// Reads the registers.
    ///
    /// # Errors
    ///
    /// Those of [`VcpuState::regs`](crate::VcpuState::regs).
    pub fn of(vcpu: &dyn Vcpu) -> Result<Self> {
        Ok(Self { regs: vcpu.regs()?, sregs: vcpu.sregs()? })
    }

    /// RIP.
    pub fn rip(&self) -> u64 {
        self.regs.rip
    }

    /// How wide the code is, in bits: 16, 32 or 64 (Intel SDM volume 3, section 5.2.1).
    pub fn code_bits(&self) -> u32 {
        match (self.sregs.efer & EFER_LMA != 0 && self.sregs.cs.l != 0, self.sregs.cs.db != 0) {
            (true, _) => 64,
            (false, true) => 32,
            (false, false) => 16,
        }
    }

    /// Returns the registers as text, for the log.
    pub fn registers(&self) -> impl fmt::Display + use<> {
        Registers(*self)
    }
}

/// Where the vCPU was.
impl fmt::Display for GuestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RIP {:#x} ({}-bit code", self.regs.rip, self.code_bits())?;
        match self.sregs.cs.base {
            0 => f.write_str(")"),
            base => write!(f, ", CS base {base:#x})"),
        }
    }
}

struct Registers(GuestState);

impl fmt::Display for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(GuestState { regs, sregs }) = self;
        write!(
            f,
            "RAX {:#x} RBX {:#x} RCX {:#x} RDX {:#x} RSI {:#x} RDI {:#x} RSP {:#x} RBP {:#x} ",
            regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rsp, regs.rbp
        )?;
        let high = [regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15];
        for (number, value) in (8..).zip(high).filter(|(_, value)| *value != 0) {
            write!(f, "R{number} {value:#x} ")?;
        }
        write!(f, "RIP {:#x} RFLAGS {:#x} ", regs.rip, regs.rflags)?;
        let segments = [("CS", sregs.cs), ("DS", sregs.ds), ("ES", sregs.es), ("SS", sregs.ss)];
        for (name, segment) in segments {
            write!(f, "{name} {:#x} (base {:#x}, limit {:#x}) ", segment.selector, segment.base, segment.limit)?;
        }
        write!(
            f,
            "GDT {:#x} (limit {:#x}) IDT {:#x} (limit {:#x}) CR0 {:#x} CR2 {:#x} CR3 {:#x} CR4 {:#x} EFER {:#x}",
            sregs.gdt.base,
            sregs.gdt.limit,
            sregs.idt.base,
            sregs.idt.limit,
            sregs.cr0,
            sregs.cr2,
            sregs.cr3,
            sregs.cr4,
            sregs.efer
        )
    }
}

/// An internal error with the vCPU's registers, in words.
#[derive(Clone, Copy, Debug)]
pub struct Diagnosis<'a> {
    error: &'a InternalError,
    state: Option<&'a GuestState>,
}

impl<'a> Diagnosis<'a> {
    /// Of `error`; `state` is the vCPU's after it.
    pub fn new(error: &'a InternalError, state: Option<&'a GuestState>) -> Self {
        Self { error, state }
    }
}

impl fmt::Display for Diagnosis<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        if let Some(state) = self.state {
            write!(f, "; at {state}")?;
            if let Some((text, bytes)) = self.error.instruction_bytes().and_then(|bytes| disassemble(&bytes, state)) {
                write!(f, ", instruction `{text}` ({bytes})")?;
            }
        }
        self.error.explanation().map_or(Ok(()), |explanation| write!(f, "; {explanation}"))
    }
}

/// Returns the first instruction of `bytes` as assembly, and its own bytes; `None` where they are no instruction.
fn disassemble(bytes: &[u8], state: &GuestState) -> Option<(String, String)> {
    let mut decoder = Decoder::with_ip(state.code_bits(), bytes, state.rip(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    if instruction.is_invalid() {
        return None;
    }
    let mut text = String::new();
    FastFormatter::new().format(&instruction, &mut text);
    let bytes: Vec<_> = bytes.iter().take(instruction.len()).map(|byte| format!("{byte:02x}")).collect();
    Some((text, bytes.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(bits: u32) -> GuestState {
        let regs = kvm_regs { rip: 0x1000, rax: 7, r9: 9, ..Default::default() };
        let mut sregs = kvm_sregs { efer: if bits == 64 { EFER_LMA } else { 0 }, cr3: 0x2000, ..Default::default() };
        (sregs.cs.l, sregs.cs.db) = (u8::from(bits == 64), u8::from(bits == 32));
        GuestState { regs, sregs }
    }

    /// What KVM reports for an instruction that it could fetch and not emulate.
    fn emulation_failure(bytes: &[u8]) -> InternalError {
        let mut instruction = [0x90; 16];
        instruction[0] = bytes.len() as u8;
        instruction[1..=bytes.len()].copy_from_slice(bytes);
        let [low, high] = [0, 8].map(|at| u64::from_le_bytes(instruction[at..at + 8].try_into().unwrap()));
        InternalError { suberror: 1, data: [1, low, high, 0x30, 0, 0], words: 6 }
    }

    #[test]
    fn an_emulation_failure_has_bytes_and_disassembly_of_each_mode() {
        // The same bytes are `cwde` or `cdqe`, and `inc eax` where they are no prefix.
        for (bits, bytes, text) in [
            (16, [0x98].as_slice(), "cbw"),
            (32, &[0x98], "cwde"),
            (64, &[0x48, 0x98], "cdqe"),
            (32, &[0x0f, 0xae, 0x10], "ldmxcsr [eax]"),
        ] {
            let (error, state) = (emulation_failure(bytes), state(bits));
            let said = Diagnosis::new(&error, Some(&state)).to_string();
            let shown: Vec<_> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let expected = format!("instruction emulation failed, bytes {}", shown.join(" "));
            assert!(said.contains(&expected), "{said}");
            let place = format!("; at RIP 0x1000 ({bits}-bit code), instruction `{text}` ({})", shown.join(" "));
            assert!(said.contains(&place), "{said}");
            assert!(said.ends_with("its emulator does not know it or cannot do what it asks"), "{said}");
        }
    }

    #[test]
    fn bytes_that_are_no_instruction_are_shown_without_assembly() {
        let (error, state) = (emulation_failure(&[0x0f, 0xff]), state(16));
        let said = Diagnosis::new(&error, Some(&state)).to_string();
        assert!(said.contains("bytes 0f ff") && !said.contains("instruction `"), "{said}");
    }

    #[test]
    fn without_registers_the_error_alone_is_shown() {
        let error = emulation_failure(&[0x98]);
        let said = Diagnosis::new(&error, None).to_string();
        assert!(said.starts_with(&format!("{error}; ")) && !said.contains("RIP"), "{said}");
    }

    #[test]
    fn the_registers_are_shown_by_their_names() {
        let text = state(64).registers().to_string();
        for part in ["RAX 0x7 ", "R9 0x9 ", "RIP 0x1000 ", "CR3 0x2000 ", "EFER 0x400"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("R10"), "{text}");
    }

    #[test]
    fn a_code_segment_that_does_not_begin_at_0_is_shown() {
        let mut state = state(16);
        state.sregs.cs.base = 0xf0000;
        assert_eq!(state.to_string(), "RIP 0x1000 (16-bit code, CS base 0xf0000)");
    }
}
