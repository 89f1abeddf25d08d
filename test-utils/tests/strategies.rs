//! What fails shrinks to a case that can be read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Debug;

use hypervisor::mock::Step;
use plugin_proto::messages::main_request::Message as Request;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};
use test_utils::strategies::{conversation, exits};

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
    let refused_pause = |turn: &test_utils::strategies::Turn| {
        matches!(&turn.request, Request::PauseVcpus(pause) if pause.user > 1) && turn.errno != 0
    };
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
