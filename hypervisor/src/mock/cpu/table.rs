//! Which instructions are known, and what executes each.

use std::sync::LazyLock;

use iced_x86::Mnemonic;

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

/// By mnemonic.
static HANDLERS: LazyLock<Vec<Option<Handler>>> = LazyLock::new(|| {
    let find = |mnemonic| GROUPS.iter().find_map(|group| (group.handler)(mnemonic));
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
