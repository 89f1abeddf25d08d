//! Which instructions are known, and what executes each.

use std::sync::LazyLock;

use iced_x86::Mnemonic;

use super::{
    Handler, alu, bcd, bits, control, far, flag_moves, identify, interrupts, io, jumps, moves, muldiv, shifts, stack,
    strings, system,
};

/// A group of instructions, by the file it is in.
struct Group {
    #[cfg_attr(not(test), allow(dead_code, reason = "for the documentation's test"))]
    name: &'static str,
    handler: fn(Mnemonic) -> Option<Handler>,
}

/// All groups.
const GROUPS: [Group; 17] = [
    Group { name: "moves", handler: moves::handler },
    Group { name: "alu", handler: alu::handler },
    Group { name: "shifts", handler: shifts::handler },
    Group { name: "muldiv", handler: muldiv::handler },
    Group { name: "bits", handler: bits::handler },
    Group { name: "bcd", handler: bcd::handler },
    Group { name: "stack", handler: stack::handler },
    Group { name: "jumps", handler: jumps::handler },
    Group { name: "far", handler: far::handler },
    Group { name: "strings", handler: strings::handler },
    Group { name: "io", handler: io::handler },
    Group { name: "flag_moves", handler: flag_moves::handler },
    Group { name: "interrupts", handler: interrupts::handler },
    Group { name: "control", handler: control::handler },
    Group { name: "system", handler: system::handler },
    Group { name: "identify", handler: identify::handler },
    Group { name: "nothing", handler: nothing },
];

/// Instructions without effect on what there is a model of.
fn nothing(mnemonic: Mnemonic) -> Option<Handler> {
    match mnemonic {
        Mnemonic::Nop | Mnemonic::Pause => Some(|_, _| Ok(())),
        _ => None,
    }
}

/// By mnemonic.
static HANDLERS: LazyLock<Vec<Option<Handler>>> = LazyLock::new(|| {
    let find = |mnemonic| GROUPS.iter().find_map(|group| (group.handler)(mnemonic));
    Mnemonic::values().map(find).collect()
});

/// What executes an instruction of this name.
pub(super) fn handler(mnemonic: Mnemonic) -> Option<Handler> {
    *HANDLERS.get(mnemonic as usize)?
}

/// The instructions that are known, group by group.
#[cfg(test)]
fn covered() -> impl Iterator<Item = (&'static str, Vec<Mnemonic>)> {
    GROUPS.iter().map(|group| (group.name, Mnemonic::values().filter(|&m| (group.handler)(m).is_some()).collect()))
}
