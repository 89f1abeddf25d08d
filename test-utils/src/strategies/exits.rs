//! Exits, generated.

use std::ops::Range;

use hypervisor::mock::Step;
use proptest::collection::vec;
use proptest::prelude::*;

/// Up to `count` accesses to `ports` and to `memory`, as steps that a machine of
/// [`from_steps`](crate::TestMachine::from_steps) makes: reads and writes of 1, 2 and 4 bytes of ports and of 1 to 8 of
/// memory, and strings: of all widths where ports are read, of bytes where they are written. Accesses begin in the ranges and
/// may end behind them; what a write carries is what was read last, or what a step before it has put into RAX.
///
/// A device that is to meet them all claims both ranges, or neither.
///
/// A case shrinks to few steps, low addresses and narrow accesses.
pub fn exits(ports: Range<u16>, memory: Range<u64>, count: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(exit(ports, memory), 0..=count)
}

fn exit(ports: Range<u16>, memory: Range<u64>) -> impl Strategy<Value = Step> {
    let port = move || (ports.clone(), proptest::sample::select(&[1_u8, 2, 4][..]));
    let memory = move || (memory.clone(), 1..=8_u8);
    prop_oneof![
        4 => port().prop_map(|(port, width)| Step::Out { port, width }),
        4 => port().prop_map(|(port, width)| Step::In { port, width }),
        4 => memory().prop_map(|(address, width)| Step::Store { address, width }),
        4 => memory().prop_map(|(address, width)| Step::Load { address, width }),
        2 => any::<u64>().prop_map(Step::Mov),
        1 => (port(), 1..20_u16).prop_map(|((port, width), count)| Step::Ins { port, width, count }),
        1 => (port(), vec(any::<u8>(), 1..20)).prop_map(|((port, _), data)| Step::Outs { port, data }),
    ]
}
