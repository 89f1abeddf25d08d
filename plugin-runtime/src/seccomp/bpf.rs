//! Programs of the kernel's packet filter ("classic BPF"), of the few instructions that system call filters need.

/// `linux/bpf_common.h`: the codes of the instructions used here.
pub(super) mod code {
    /// Load a word at a fixed offset of `struct seccomp_data`.
    pub(in super::super) const LOAD: u16 = 0x20;
    pub(in super::super) const JUMP: u16 = 0x05;
    pub(in super::super) const JUMP_IF_EQUAL: u16 = 0x15;
    pub(in super::super) const JUMP_IF_GREATER: u16 = 0x25;
    pub(in super::super) const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
    pub(in super::super) const JUMP_IF_ANY_BIT: u16 = 0x45;
    pub(in super::super) const RETURN: u16 = 0x06;
}

/// The longest program the kernel takes, `BPF_MAXINSNS` of `linux/bpf_common.h`.
pub(super) const MAX_INSTRUCTIONS: usize = 4096;

/// One instruction, laid out as the kernel's `struct sock_filter`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub(super) struct Instruction {
    pub(super) code: u16,
    pub(super) if_true: u8,
    pub(super) if_false: u8,
    pub(super) value: u32,
}

impl Instruction {
    /// The same, but for one that returns `old`, which returns `new`.
    pub(super) fn with_return(self, old: u32, new: u32) -> Self {
        if self.code == code::RETURN && self.value == old { Self { value: new, ..self } } else { self }
    }
}

/// A program that is written from its end to its beginning.
///
/// Jumps go forward only, so backwards every target is there, and its distance known, when a jump to it is written.
#[derive(Debug, Default)]
pub(super) struct Builder {
    /// The last instruction first.
    reversed: Vec<Instruction>,
}

/// An instruction that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label(usize);

impl Builder {
    /// Returns `value`. One that is near enough to be reached by any jump serves again.
    pub(super) fn ret(&mut self, value: u32) -> Label {
        let near = self.reversed.len().saturating_sub(128);
        let known = self.reversed[near..].iter().position(|old| old.code == code::RETURN && old.value == value);
        match known {
            Some(index) => Label(near + index),
            None => self.push(code::RETURN, 0, 0, value),
        }
    }

    /// Loads the word at `offset`, and goes on at `then`.
    pub(super) fn load(&mut self, offset: u32, then: Label) -> Label {
        if self.distance(then) != 0 {
            self.jump(then);
        }
        self.push(code::LOAD, 0, 0, offset)
    }

    /// Goes to `if_true` if what was loaded compares so with `value`, else to `if_false`.
    pub(super) fn branch(&mut self, code: u16, value: u32, if_true: Label, if_false: Label) -> Label {
        let (mut if_true, mut if_false) = (if_true, if_false);
        // A jump that bridges the one distance may push the other out of reach, but there it is bridged too.
        if self.distance(if_true) >= u8::MAX.into() {
            if_true = self.jump(if_true);
        }
        if self.distance(if_false) > u8::MAX.into() {
            if_false = self.jump(if_false);
        }
        let [near, far] = [if_true, if_false].map(|label| self.distance(label) as u8);
        self.push(code, near, far, value)
    }

    /// The program, from its beginning.
    pub(super) fn finish(mut self) -> Vec<Instruction> {
        self.reversed.reverse();
        self.reversed
    }

    fn jump(&mut self, to: Label) -> Label {
        // Programs are far shorter than 2^32.
        let distance = self.distance(to) as u32;
        self.push(code::JUMP, 0, 0, distance)
    }

    /// How many instructions lie between the next one that is written and `to`.
    fn distance(&self, to: Label) -> usize {
        self.reversed.len() - 1 - to.0
    }

    fn push(&mut self, code: u16, if_true: u8, if_false: u8, value: u32) -> Label {
        self.reversed.push(Instruction { code, if_true, if_false, value });
        Label(self.reversed.len() - 1)
    }
}
