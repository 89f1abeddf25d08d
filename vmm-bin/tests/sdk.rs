//! Every request of the Rust SDK, against the VMM itself.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use common::{Backend, Outboard, on_each_backend};
use test_utils::guest::Program;

on_each_backend! {
    each_request_of_the_sdk_does_what_it_says
}

fn each_request_of_the_sdk_does_what_it_says(backend: Backend) {
    let program = Program::new()
        .mov(0x41)
        .output(0x10, 1)
        .store(0x2000, 1)
        .output(0x1c, 1)
        .output(0x18, 1)
        .input(0x11, 1)
        .output(0x12, 1);
    let code = program.code().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Outboard::plugin(backend, &[], "tour", [code]).run().assert_success();
}
