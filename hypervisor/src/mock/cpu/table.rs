//! Which instructions are known, and what executes each.

use std::sync::LazyLock;

use iced_x86::Mnemonic;

use super::fpu::{convert, float, packed, save, shuffle, simd_moves, x87, x87_control};
use super::{
    Handler, alu, bcd, bits, control, far, flag_moves, identify, interrupts, io, jumps, moves, muldiv, nothing, shifts,
    stack, strings, system,
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
const GROUPS: [Group; 17] = groups! {
    moves alu shifts muldiv bits bcd stack jumps far strings io flag_moves interrupts control system identify nothing
};

/// Those of x87, MMX and SSE, which have a table of their own in the documentation.
const FPU_GROUPS: [Group; 8] = groups! { x87 x87_control simd_moves packed shuffle float convert save };

/// By mnemonic.
static HANDLERS: LazyLock<Vec<Option<Handler>>> = LazyLock::new(|| {
    let find = |mnemonic| GROUPS.iter().chain(&FPU_GROUPS).find_map(|group| (group.handler)(mnemonic));
    Mnemonic::values().map(find).collect()
});

/// What executes an instruction of this name.
pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    *HANDLERS.get(mnemonic as usize)?
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
