//! Which instructions are known, and what executes each.

use std::sync::LazyLock;

use iced_x86::{Instruction, Mnemonic};

use super::Handler;
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

/// By mnemonic.
static HANDLERS: LazyLock<Vec<Option<Handler>>> = LazyLock::new(|| {
    let find = |mnemonic| GROUPS.iter().find_map(|group| (group.handler)(mnemonic));
    Mnemonic::values().map(find).collect()
});

/// What executes an instruction; none where it is not known.
pub(super) fn handler(instruction: &Instruction) -> Option<Handler> {
    let mnemonic = instruction.mnemonic();
    if matches!(mnemonic, Mnemonic::Movsd | Mnemonic::Cmpsd) && !instruction.is_string_instruction() {
        // Those of SSE2 have the names of string instructions.
        return None;
    }
    *HANDLERS.get(mnemonic as usize)?
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../../../docs/mock-cpu.md");

    /// The table of the document, as it ought to be.
    fn rows() -> String {
        let row = |group: &Group| {
            let mut names: Vec<_> = Mnemonic::values()
                .filter(|&mnemonic| (group.handler)(mnemonic).is_some())
                .map(|mnemonic| format!("`{mnemonic:?}`").to_lowercase())
                .collect();
            names.sort_unstable();
            format!("| {} | {} |\n", group.name, names.join(" "))
        };
        GROUPS.iter().map(row).collect()
    }

    #[test]
    fn the_document_names_the_instructions_that_are_known() {
        let rows = rows();
        assert!(DOCUMENT.contains(&rows), "the table in docs/mock-cpu.md should be\n{rows}");
    }

    #[test]
    fn no_instruction_is_in_two_groups() {
        for mnemonic in Mnemonic::values() {
            let groups: Vec<_> =
                GROUPS.iter().filter(|group| (group.handler)(mnemonic).is_some()).map(|group| group.name).collect();
            assert!(groups.len() <= 1, "{mnemonic:?} is in {groups:?}");
        }
    }
}
