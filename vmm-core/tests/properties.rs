//! Any sequence of accesses over any reservations: each is seen by its owner, once, in order, whole.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{PORT, Rig, claim};
use hypervisor::mock::Step;
use hypervisor::{AddressSpace, Direction};
use proptest::prelude::*;

const PAGE: u64 = 4096;
const BASE: u64 = 0xd000;

#[derive(Clone, Debug)]
enum Op {
    Out { port: u16, width: u8 },
    In { port: u16, width: u8 },
    Store { address: u64, width: u8 },
    Load { address: u64, width: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    let port = || (0x40..0x60_u16, prop_oneof![Just(1_u8), Just(2), Just(4)]);
    // Around the seam between two pages, where accesses come in fragments.
    let memory = || (BASE + PAGE - 12..BASE + PAGE + 12, 1..=8_u8);
    prop_oneof![
        port().prop_map(|(port, width)| Op::Out { port, width }),
        port().prop_map(|(port, width)| Op::In { port, width }),
        memory().prop_map(|(address, width)| Op::Store { address, width }),
        memory().prop_map(|(address, width)| Op::Load { address, width }),
    ]
}

fn step(op: &Op) -> Step {
    match *op {
        Op::Out { port, width } => Step::Out { port, width },
        Op::In { port, width } => Step::In { port, width },
        Op::Store { address, width } => Step::Store { address, width },
        Op::Load { address, width } => Step::Load { address, width },
    }
}

/// What a device at `address` answers for each byte.
fn device_byte(address: u64) -> u8 {
    (address as u8).wrapping_mul(37) | 1
}

/// The naive model: RAX, and who has which byte.
struct Model {
    rax: u64,
    ports: Vec<(u64, u64)>,
    memory: Vec<(u64, u64)>,
}

type Seen = (AddressSpace, u64, Direction, Vec<u8>);

impl Model {
    fn reserved(&self, space: AddressSpace, address: u64) -> bool {
        let ranges = if space == AddressSpace::Pio { &self.ports } else { &self.memory };
        ranges.iter().any(|(start, len)| (*start..start + len).contains(&address))
    }

    /// What the owner sees of one instruction.
    fn execute(&mut self, op: &Op) -> Vec<Seen> {
        let (space, address, width, direction) = match *op {
            Op::Out { port, width } => (AddressSpace::Pio, port.into(), width, Direction::Write),
            Op::In { port, width } => (AddressSpace::Pio, port.into(), width, Direction::Read),
            Op::Store { address, width } => (AddressSpace::Mmio, address, width, Direction::Write),
            Op::Load { address, width } => (AddressSpace::Mmio, address, width, Direction::Read),
        };
        let addresses: Vec<u64> = (address..address + u64::from(width)).collect();
        let fragments: Vec<&[u64]> = match space {
            AddressSpace::Pio => vec![&addresses],
            AddressSpace::Mmio => addresses.chunk_by(|a, b| a / PAGE == b / PAGE).collect(),
        };
        let rax = self.rax.to_le_bytes();
        let mut value = Vec::new();
        let mut seen = Vec::new();
        for fragment in fragments {
            let reserved = self.reserved(space, fragment[0]);
            let data: Vec<u8> = match direction {
                Direction::Write => fragment.iter().map(|at| rax[(at - address) as usize]).collect(),
                Direction::Read => Vec::new(),
            };
            value.extend(fragment.iter().map(|at| if reserved { device_byte(*at) } else { 0 }));
            if reserved {
                seen.push((space, fragment[0], direction, data));
            }
        }
        if direction == Direction::Read {
            let mut rax = if width <= 2 { rax } else { [0; 8] };
            rax[..value.len()].copy_from_slice(&value);
            self.rax = u64::from_le_bytes(rax);
        }
        seen
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_access_reaches_its_owner_once_in_order_and_whole(
        ops in prop::collection::vec(op(), 1..40),
        ports in prop::collection::vec((0x40..0x60_u64, 1..6_u64), 0..6),
        memory in prop::collection::vec((BASE + PAGE - 16..BASE + PAGE + 16, 1..6_u64), 0..6),
        start in any::<u64>(),
    ) {
        let end = [Step::Out { port: PORT, width: 4 }];
        let steps = [Step::Mov(start)].into_iter().chain(ops.iter().map(step)).chain(end);
        let mut rig = Rig::new(1, steps);
        rig.reserve(AddressSpace::Pio, PORT.into(), 4);
        let mut model = Model { rax: start, ports: Vec::new(), memory: Vec::new() };
        for (space, wanted) in [(AddressSpace::Pio, ports), (AddressSpace::Mmio, memory)] {
            for (start, len) in wanted {
                if rig.machine.map().reserve(space, start, len, claim(rig.owner)).is_ok() {
                    let ranges = if space == AddressSpace::Pio { &mut model.ports } else { &mut model.memory };
                    ranges.push((start, len));
                }
            }
        }
        rig.start_running();
        for expected in ops.iter().flat_map(|op| model.execute(op)) {
            let (access, data) = rig.expect_access(0);
            let seen = (access.space(), access.address(), access.direction(), data);
            prop_assert_eq!(seen, expected);
            let answer: Vec<u8> = (0..access.len() as u64).map(|n| device_byte(access.address() + n)).collect();
            rig.resume_read(0, if access.direction() == Direction::Read { &answer } else { &[] });
        }
        rig.expect_write(0, &model.rax.to_le_bytes()[..4]);
    }
}
