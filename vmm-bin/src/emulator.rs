//! For tests: executes the few instructions our guests are made of, to compare them with their scripts.

use hypervisor::mock::Step;

/// A byte that went to a port, or a question to one (`None`).
pub(crate) type PortAccess = (u16, Option<u8>);

/// A processor in real mode with 64 KiB of memory.
pub(crate) struct Emulator {
    memory: Vec<u8>,
    ip: u16,
    zero: bool,
    pub(crate) ax: u16,
    pub(crate) bx: u16,
    cx: u16,
    dx: u16,
    si: u16,
}

impl Emulator {
    /// About to execute `program`, which lies at `entry`.
    pub(crate) fn new(entry: u16, program: &[u8]) -> Self {
        let mut memory = vec![0; 0x10000];
        memory[entry.into()..][..program.len()].copy_from_slice(program);
        Self { memory, ip: entry, zero: false, ax: 0, bx: 0, cx: 0, dx: 0, si: 0 }
    }

    /// The first `count` port accesses; `answer` says what a port reads.
    pub(crate) fn accesses(&mut self, count: usize, mut answer: impl FnMut(u16) -> u8) -> Vec<PortAccess> {
        let mut accesses = Vec::new();
        let mut instructions = 0;
        while accesses.len() < count {
            instructions += 1;
            assert!(instructions < 1000, "only {} accesses of {count}", accesses.len());
            accesses.extend(self.step(&mut answer));
        }
        accesses
    }

    fn step(&mut self, answer: &mut impl FnMut(u16) -> u8) -> Option<PortAccess> {
        match self.byte() {
            0x00 => {
                assert_eq!(self.byte(), 0xd8, "only add al, bl");
                self.set_al(self.al().wrapping_add(self.bx as u8));
            }
            0x04 => {
                let value = self.byte();
                self.set_al(self.al().wrapping_add(value));
            }
            0x74 => self.jump_if(self.zero),
            0xa2 => {
                let address = self.word();
                self.memory[usize::from(address)] = self.al();
            }
            0xa8 => self.zero = self.byte() & self.al() == 0,
            0xac => {
                self.set_al(self.memory[usize::from(self.si)]);
                self.si += 1;
            }
            0xb9 => self.cx = self.word(),
            0xba => self.dx = self.word(),
            0xbe => self.si = self.word(),
            0xe2 => {
                self.cx -= 1;
                self.jump_if(self.cx != 0);
            }
            0xe4 => {
                let port = self.byte().into();
                return Some(self.input(port, answer));
            }
            0xe6 => return Some((self.byte().into(), Some(self.al()))),
            0xeb => self.jump_if(true),
            0xec => return Some(self.input(self.dx, answer)),
            0xee => return Some((self.dx, Some(self.al()))),
            other => panic!("no instruction of our guests begins with {other:#x}"),
        }
        None
    }

    fn input(&mut self, port: u16, answer: &mut impl FnMut(u16) -> u8) -> PortAccess {
        self.set_al(answer(port));
        (port, None)
    }

    fn byte(&mut self) -> u8 {
        self.ip += 1;
        self.memory[usize::from(self.ip - 1)]
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn jump_if(&mut self, condition: bool) {
        let distance = self.byte() as i8;
        if condition {
            self.ip = self.ip.wrapping_add_signed(distance.into());
        }
    }

    fn al(&self) -> u8 {
        self.ax as u8
    }

    fn set_al(&mut self, value: u8) {
        self.ax = self.ax & 0xff00 | u16::from(value);
    }
}

/// What a script of single-byte port accesses does.
pub(crate) fn accesses_of(steps: &[Step]) -> Vec<PortAccess> {
    let mut al = 0;
    let mut accesses = Vec::new();
    for step in steps {
        match *step {
            Step::Mov(value) => al = value as u8,
            Step::In { port, width: 1 } => accesses.push((port, None)),
            Step::Out { port, width: 1 } => accesses.push((port, Some(al))),
            ref other => panic!("{other:?} is no access of a byte"),
        }
    }
    accesses
}
