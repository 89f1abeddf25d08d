//! Which instructions are known, and what executes each.

use std::sync::LazyLock;

use iced_x86::{Instruction, Mnemonic};

use super::Handler;
use super::fpu::{self, convert, float, packed, save, shuffle, simd_moves, x87, x87_control};
use super::ops::{
    alu, bcd, bit_test, branch, control_regs, cpuid_msr, descriptor, far_transfer, flag_ops, interrupts, io, iret, mov,
    muldiv, nop, processor, shifts, stack, strings, syscall,
};

/// A group of instructions, by the file it is in.
struct Group {
    /// For the table in the documentation.
    #[cfg(test)]
    name: &'static str,
    handler: fn(Mnemonic) -> Option<Handler>,
}

macro_rules! groups {
    ($($name:ident)*) => { [$(Group { #[cfg(test)] name: stringify!($name), handler: $name::handler },)*] };
}

/// All groups.
const GROUPS: [Group; 20] = groups! {
    mov alu shifts muldiv bit_test bcd stack branch far_transfer iret strings io flag_ops interrupts syscall control_regs
    descriptor processor cpuid_msr nop
};

/// Those of x87, MMX and SSE, which have a table of their own in the documentation.
const FPU_GROUPS: [Group; 8] = groups! { x87 x87_control simd_moves packed shuffle float convert save };

/// By mnemonic.
static HANDLERS: LazyLock<Vec<Option<Handler>>> = LazyLock::new(|| {
    let find = |mnemonic| GROUPS.iter().chain(&FPU_GROUPS).find_map(|group| (group.handler)(mnemonic));
    Mnemonic::values().map(find).collect()
});

/// What executes an instruction; none where it is not known.
pub(super) fn handler(instruction: &Instruction) -> Option<Handler> {
    let by_name = || *HANDLERS.get(instruction.mnemonic() as usize)?;
    fpu::shared_name(instruction.code()).or_else(by_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../../docs/mock-cpu.md");

    /// A table of the document, as it ought to be.
    fn rows(groups: &[Group]) -> String {
        let row = |group: &Group| {
            let mut names: Vec<_> = Mnemonic::values()
                .filter(|&mnemonic| (group.handler)(mnemonic).is_some())
                .map(|mnemonic| format!("`{mnemonic:?}`").to_lowercase())
                .collect();
            names.sort_unstable();
            format!("| {} | {} |\n", group.name, names.join(" "))
        };
        groups.iter().map(row).collect()
    }

    #[test]
    fn the_document_names_the_instructions_that_are_known() {
        for rows in [rows(&GROUPS), rows(&FPU_GROUPS)] {
            assert!(DOCUMENT.contains(&rows), "a table in docs/mock-cpu.md should be\n{rows}");
        }
    }

    #[test]
    fn no_instruction_is_in_two_groups() {
        for mnemonic in Mnemonic::values() {
            let knows = |group: &&Group| (group.handler)(mnemonic).is_some();
            let groups: Vec<_> = GROUPS.iter().chain(&FPU_GROUPS).filter(knows).map(|group| group.name).collect();
            assert!(groups.len() <= 1, "{mnemonic:?} is in {groups:?}");
        }
    }
}
