//! What a vCPU of the mock does: a list of steps, as guest code would make them.

pub(super) mod runner;

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::{Access, AddressSpace, Direction, Exit, Gsi, SynicWrite};

/// One thing a guest does. Values pass through RAX, as they do in `in`, `out` and `mov` to and from the accumulator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `mov rax, value`.
    Mov(u64),
    /// `in`: reads 1, 2 or 4 bytes from a port into RAX's low bytes.
    In {
        /// The port.
        port: u16,
        /// Bytes.
        width: u8,
    },
    /// `out`: writes RAX's low 1, 2 or 4 bytes to a port.
    Out {
        /// The port.
        port: u16,
        /// Bytes.
        width: u8,
    },
    /// `rep ins`: reads `count` items from a port in one exit; where they go to is not kept.
    Ins {
        /// The port.
        port: u16,
        /// Bytes of an item.
        width: u8,
        /// Items.
        count: u16,
    },
    /// `rep outs` as one exit: writes `data`, up to 4096 bytes, to a port.
    Outs {
        /// The port.
        port: u16,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Loads 1 to 8 bytes of physical memory into RAX's low bytes: from a slot where one is, else by an exit a piece.
    Load {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        width: u8,
    },
    /// Stores RAX's low 1 to 8 bytes to physical memory.
    Store {
        /// Guest-physical address.
        address: u64,
        /// Bytes.
        width: u8,
    },
    /// Tells the interrupt controller that the interrupt of `gsi` is dealt with.
    Acknowledge {
        /// The interrupt.
        gsi: Gsi,
    },
    /// A call of Hyper-V; its result is in RAX afterwards.
    HypervCall {
        /// The call's code and flags.
        input: u64,
        /// Its parameters.
        params: [u64; 2],
    },
    /// An exit that is no access and leaves the guest where it is: [`Exit::Shutdown`] and its like.
    Exit(Exit),
}

/// A list of steps, made once or over and over.
///
/// A vCPU whose script has ended is like one that has executed `hlt` while the kernel keeps the interrupt controller:
/// its run waits, until it is kicked.
#[derive(Clone, Debug, Default)]
pub struct Script {
    steps: Arc<[Step]>,
    repeats: bool,
}

impl Script {
    /// Makes the steps once, then halts.
    pub fn once(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), repeats: false }
    }

    /// Makes the steps over and over.
    pub fn forever(steps: impl IntoIterator<Item = Step>) -> Self {
        Self { steps: steps.into_iter().collect(), repeats: true }
    }

    /// For a machine that was given nothing to run: its first run is an internal error.
    pub fn nothing() -> Self {
        Self::once([Step::Exit(Exit::InternalError(crate::InternalError::NOTHING_TO_RUN))])
    }

    /// Reads a script from text, one step a line; `#` begins a comment, numbers are decimal or `0x` hexadecimal.
    ///
    /// | line | step |
    /// |---|---|
    /// | `mov VALUE` | RAX becomes VALUE |
    /// | `in PORT WIDTH`, `out PORT WIDTH` | a port access of 1, 2 or 4 bytes through RAX |
    /// | `ins PORT WIDTH COUNT` | a string read, COUNT items in one exit |
    /// | `load ADDRESS WIDTH`, `store ADDRESS WIDTH` | a memory access of 1 to 8 bytes through RAX |
    /// | `ack GSI` | an interrupt is acknowledged |
    /// | `hypercall INPUT PARAM PARAM` | a call of Hyper-V, its result in RAX |
    /// | `synic MSR CONTROL EVENTS MESSAGES` | Hyper-V's interrupt controller is set up, with its pages |
    /// | `shutdown` | a triple fault |
    /// | `again` | as the last line: the script starts over |
    ///
    /// # Errors
    ///
    /// [`Error::Script`] names the line and the word that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let mut steps = Vec::new();
        let mut repeats = false;
        for (index, line) in text.lines().enumerate() {
            let error = |problem: String| Error::Script { line: index + 1, problem };
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            if words.is_empty() {
                continue;
            }
            if repeats {
                return Err(error("nothing may follow `again`".into()));
            }
            match words.as_slice() {
                ["again"] => repeats = true,
                words => steps.push(step(words).map_err(error)?),
            }
        }
        if repeats && steps.is_empty() {
            return Err(Error::Script { line: 1, problem: "`again` needs a step before it".into() });
        }
        Ok(Self { steps: steps.into(), repeats })
    }

    /// The step after `done` steps, or `None` at the end.
    pub(super) fn step(&self, done: usize) -> Option<&Step> {
        let index = if self.repeats { done.checked_rem(self.steps.len())? } else { done };
        self.steps.get(index)
    }
}

/// The first words of lines.
const STEPS: [&str; 10] = ["mov", "in", "out", "ins", "load", "store", "ack", "hypercall", "synic", "shutdown"];

fn step(words: &[&str]) -> std::result::Result<Step, String> {
    let step = match words {
        ["mov", value] => Step::Mov(number(value)?),
        ["in", port, width] => Step::In { port: number(port)?, width: number(width)? },
        ["out", port, width] => Step::Out { port: number(port)?, width: number(width)? },
        ["ins", port, width, count] => Step::Ins { port: number(port)?, width: number(width)?, count: number(count)? },
        ["load", address, width] => Step::Load { address: number(address)?, width: number(width)? },
        ["store", address, width] => Step::Store { address: number(address)?, width: number(width)? },
        ["ack", gsi] => Step::Acknowledge { gsi: Gsi(number(gsi)?) },
        ["hypercall", input, a, b] => Step::HypervCall { input: number(input)?, params: [number(a)?, number(b)?] },
        ["synic", msr, control, events, messages] => Step::Exit(Exit::HypervSynic(SynicWrite {
            msr: number(msr)?,
            control: number(control)?,
            evt_page: number(events)?,
            msg_page: number(messages)?,
        })),
        ["shutdown"] => Step::Exit(Exit::Shutdown),
        [name, ..] if STEPS.contains(name) => {
            return Err(format!("`{name}` has {} operands", words.len() - 1));
        }
        [name, ..] => return Err(format!("no step is called `{name}`")),
        [] => return Err("no step".into()),
    };
    match step {
        Step::In { width, .. } | Step::Out { width, .. } | Step::Ins { width, .. } if !matches!(width, 1 | 2 | 4) => {
            Err(format!("a port has 1, 2 or 4 bytes, not {width}"))
        }
        Step::Ins { port, width, count } => Access::new(AddressSpace::Pio, port.into(), Direction::Read, width, count)
            .map(|_| step)
            .ok_or_else(|| format!("{count} items of {width} bytes are not 1 to 4096 bytes")),
        Step::Load { width, .. } | Step::Store { width, .. } if !(1..=8).contains(&width) => {
            Err(format!("a memory access has 1 to 8 bytes, not {width}"))
        }
        _ => Ok(step),
    }
}

fn number<T: TryFrom<u64>>(word: &str) -> std::result::Result<T, String> {
    let parsed = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    let value = parsed.map_err(|_| format!("`{word}` is not a number"))?;
    T::try_from(value).map_err(|_| format!("`{word}` is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_line_is_its_step() {
        let script = Script::parse(
            "# a comment\nmov 0x41 # A\nout 0x3f8 1\nin 96 2\nins 0x70 2 512\nload 0xd0000 4\nstore 0xd0000 8\n\
             ack 5\nhypercall 0x1005c 1 2\nsynic 0x40000080 1 0x5001 0x6001\nshutdown\n",
        )
        .unwrap();
        let expected = [
            Step::Mov(0x41),
            Step::Out { port: 0x3f8, width: 1 },
            Step::In { port: 96, width: 2 },
            Step::Ins { port: 0x70, width: 2, count: 512 },
            Step::Load { address: 0xd0000, width: 4 },
            Step::Store { address: 0xd0000, width: 8 },
            Step::Acknowledge { gsi: Gsi(5) },
            Step::HypervCall { input: 0x1005c, params: [1, 2] },
            Step::Exit(Exit::HypervSynic(SynicWrite {
                msr: 0x4000_0080,
                control: 1,
                evt_page: 0x5001,
                msg_page: 0x6001,
            })),
            Step::Exit(Exit::Shutdown),
        ];
        for (index, step) in expected.iter().enumerate() {
            assert_eq!(script.step(index), Some(step));
        }
        assert_eq!(script.step(expected.len()), None);
    }

    #[test]
    fn again_starts_over() {
        let script = Script::parse("mov 1\nmov 2\nagain").unwrap();
        assert_eq!(script.step(4), Some(&Step::Mov(1)));
        assert_eq!(script.step(5), Some(&Step::Mov(2)));
    }

    #[test]
    fn a_bad_line_is_named_with_its_word() {
        for (text, expected) in [
            ("mov 1\njump 2", "script line 2: no step is called `jump`"),
            ("mov", "script line 1: `mov` has 0 operands"),
            ("mov x", "script line 1: `x` is not a number"),
            ("in 0x10000 1", "script line 1: `0x10000` is too large"),
            ("in 1 3", "script line 1: a port has 1, 2 or 4 bytes, not 3"),
            ("ins 1 4 2000", "script line 1: 2000 items of 4 bytes are not 1 to 4096 bytes"),
            ("load 1 9", "script line 1: a memory access has 1 to 8 bytes, not 9"),
            ("mov 1\nagain\nmov 2", "script line 3: nothing may follow `again`"),
            ("again", "script line 1: `again` needs a step before it"),
        ] {
            assert_eq!(Script::parse(text).unwrap_err().to_string(), expected);
        }
    }
}
