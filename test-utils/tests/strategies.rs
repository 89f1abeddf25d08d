//! What the strategies generate, counted; and what fails shrinks to a case that can be read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use hypervisor::mock::Step;
use plugin_proto::messages::main_request::Message as Request;
use plugin_proto::messages::main_request::create::Constructor;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{TestError, TestRunner};
use test_utils::differential::{Mode, codes, program};
use test_utils::strategies::{Turn, conversation, exits};
use test_utils::{Io, TestMachine};

/// The smallest value that is `bad`.
fn smallest<T: Debug>(strategy: &impl Strategy<Value = T>, bad: impl Fn(&T) -> bool) -> T {
    let found = TestRunner::deterministic().run(strategy, |value| {
        prop_assert!(!bad(&value));
        Ok(())
    });
    match found {
        Err(TestError::Fail(_, value)) => value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_conversation_shrinks_to_the_turns_that_matter_a_line_each() {
    let refused_pause =
        |turn: &Turn| matches!(&turn.request, Request::PauseVcpus(pause) if pause.user > 1) && turn.errno != 0;
    let found = smallest(&conversation(30), |conversation| {
        conversation.0.iter().any(refused_pause)
            && conversation.0.iter().any(|turn| matches!(turn.request, Request::Destroy(_)))
    });
    let text = format!("{found:?}");
    let mut lines: Vec<_> = text.trim_start().lines().map(str::trim).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["destroy 0 -> done", "pause 0b0 for 2 -> errno 1"]);
}

#[test]
fn exits_shrink_to_few_and_narrow_ones() {
    let found = smallest(&exits(0x300..0x400, 0x9000..0xa000, 30), |steps| {
        steps.iter().any(|step| matches!(step, Step::In { port: 0x310.., .. }))
    });
    assert_eq!(found, [Step::In { port: 0x310, width: 1 }]);
}

/// As many values of a strategy.
fn values<T: Debug>(strategy: &impl Strategy<Value = T>, count: usize) -> Vec<T> {
    let mut runner = TestRunner::deterministic();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// How often each name occurs.
fn counts(names: impl IntoIterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Fails unless each of `names` occurs `least` times or more, and nothing else occurs.
fn assert_each_occurs(counts: &BTreeMap<String, usize>, names: &[String], least: usize) {
    let expected: BTreeSet<_> = names.iter().collect();
    assert_eq!(counts.keys().collect::<BTreeSet<_>>(), expected, "{counts:#?}");
    let rare: Vec<_> = counts.iter().filter(|(_, count)| **count < least).collect();
    assert!(rare.is_empty(), "less than {least} times: {rare:?}");
}

fn step_name(step: &Step) -> String {
    match step {
        Step::Mov(_) => "mov".into(),
        Step::In { width, .. } => format!("in {width}"),
        Step::Out { width, .. } => format!("out {width}"),
        Step::Ins { width, .. } => format!("ins {width}"),
        Step::Outs { .. } => "outs".into(),
        Step::Load { width, .. } => format!("load {width}"),
        Step::Store { width, .. } => format!("store {width}"),
        other => panic!("{other:?} is no access"),
    }
}

#[test]
fn exits_have_each_kind_in_each_width() {
    let lists = values(&exits(0x300..0x304, 0x9000..0x9010, 20), 256);
    let found = counts(lists.iter().flatten().map(step_name));
    let port = |name: &str| [1, 2, 4].map(|width| format!("{name} {width}"));
    let memory = |name: &str| [1, 2, 3, 4, 5, 6, 7, 8].map(|width| format!("{name} {width}"));
    let names = [
        &["mov".into(), "outs".into()],
        &port("in")[..],
        &port("out"),
        &port("ins"),
        &memory("load"),
        &memory("store"),
    ]
    .concat();
    assert_each_occurs(&found, &names, 10);
}

#[test]
fn exits_begin_anywhere_in_a_range_and_end_behind_it_too() {
    let lists = values(&exits(0x300..0x304, 0x9000..0x9010, 20), 256);
    let mut begins = BTreeSet::new();
    let mut ends_behind = BTreeSet::new();
    for step in lists.iter().flatten() {
        let (begin, width, end) = match step {
            Step::In { port, width } | Step::Out { port, width } => (u64::from(*port), *width, 0x304),
            Step::Load { address, width } | Step::Store { address, width } => (*address, *width, 0x9010),
            _ => continue,
        };
        begins.insert(begin);
        if begin + u64::from(width) > end {
            ends_behind.insert(step_name(step).split(' ').next().unwrap().to_owned());
        }
    }
    assert_eq!(begins, (0x300..0x304).chain(0x9000..0x9010).collect());
    assert_eq!(ends_behind, ["in", "load", "out", "store"].map(str::to_owned).into());
}

#[test]
fn a_device_that_claims_both_ranges_gets_each_kind_of_access() {
    let mut found = BTreeMap::new();
    for steps in values(&exits(0x300..0x304, 0x9000..0x9010, 20), 256) {
        let machine = TestMachine::from_steps(steps).ports(0x300..0x308).memory(0x9000..0x9018);
        machine.run(|io| {
            let name = match io {
                Io::In(..) => "in",
                Io::Out(..) => "out",
                Io::Load(..) => "load",
                Io::Store(..) => "store",
            };
            *found.entry(name.to_owned()).or_default() += 1;
        });
    }
    assert_each_occurs(&found, &["in", "load", "out", "store"].map(str::to_owned), 256);
}

fn request_name(request: &Request) -> String {
    match request {
        Request::Create(create) => match create.constructor.as_ref().unwrap() {
            Constructor::Memory(memory) if memory.read_only => "create read-only memory",
            Constructor::Memory(_) => "create memory",
            Constructor::IoEvent(event) if event.length == 0 => "create event of any write",
            Constructor::IoEvent(_) => "create event of a write",
            Constructor::IrqEvent(_) => "create event of a line",
            other => panic!("{other:?}"),
        },
        Request::Destroy(_) => "destroy",
        Request::ReserveRange(range) => match (range.length, range.async_write, range.coalesce) {
            (0, ..) => "release",
            (_, false, false) => "reserve",
            (_, true, false) => "reserve, writes posted",
            (_, true, true) => "reserve, writes coalesced",
            (_, false, true) => panic!("a coalesced range of which writes are waited for"),
        },
        Request::SetIrq(irq) if irq.active => "raise",
        Request::SetIrq(_) => "lower",
        Request::PauseVcpus(_) => "pause",
        Request::CheckExtension(_) => "check extension",
        other => panic!("{other:?}"),
    }
    .into()
}

#[test]
fn conversations_have_each_request_done_and_refused() {
    let turns: Vec<_> = values(&conversation(40), 256).into_iter().flat_map(|conversation| conversation.0).collect();
    let names = [
        "check extension",
        "create event of a line",
        "create event of a write",
        "create event of any write",
        "create memory",
        "create read-only memory",
        "destroy",
        "lower",
        "pause",
        "raise",
        "release",
        "reserve",
        "reserve, writes coalesced",
        "reserve, writes posted",
    ]
    .map(str::to_owned);
    for refused in [false, true] {
        let chosen = turns.iter().filter(|turn| (turn.errno != 0) == refused);
        assert_each_occurs(&counts(chosen.map(|turn| request_name(&turn.request))), &names, 10);
    }
}

#[test]
fn requests_of_a_conversation_meet() {
    let mut found = BTreeMap::<_, usize>::new();
    for conversation in values(&conversation(40), 256) {
        let (mut ids, mut ranges) = (BTreeSet::new(), Vec::<(u64, u64)>::new());
        for turn in conversation.0 {
            let met = match turn.request {
                Request::Create(create) if !ids.insert(create.id) => "an id that is taken",
                Request::Destroy(destroy) if ids.remove(&destroy.id) => "an object that is there",
                Request::Destroy(_) => "an object that is not there",
                Request::ReserveRange(range) if range.length == 0 => {
                    let before = ranges.len();
                    ranges.retain(|(start, _)| *start != range.start);
                    if ranges.len() < before { "a range that is there" } else { "a range that is not there" }
                }
                Request::ReserveRange(range) => {
                    let end = range.start + range.length;
                    if ranges.iter().any(|there| range.start < there.1 && there.0 < end) {
                        "ranges that overlap"
                    } else {
                        ranges.push((range.start, end));
                        continue;
                    }
                }
                _ => continue,
            };
            *found.entry(met.to_owned()).or_default() += 1;
        }
    }
    let names = [
        "a range that is not there",
        "a range that is there",
        "an id that is taken",
        "an object that is not there",
        "an object that is there",
        "ranges that overlap",
    ]
    .map(str::to_owned);
    assert_each_occurs(&found, &names, 30);
}

#[test]
fn programs_have_each_instruction_of_the_catalog_in_each_mode() {
    let programs = values(&program(), 4000);
    for mode in [Mode::Real, Mode::Flat, Mode::Segmented] {
        let of_mode = programs.iter().filter(|program| program.start.mode == mode);
        let found: BTreeSet<_> = of_mode.flat_map(|program| &program.ops).map(|op| format!("{:?}", op.code)).collect();
        let all: BTreeSet<_> = codes(mode).iter().map(|code| format!("{code:?}")).collect();
        let missing: Vec<_> = all.difference(&found).collect();
        assert!(all.len() > 300 && missing.is_empty(), "of {} in {mode:?} never generated: {missing:?}", all.len());
    }
}
