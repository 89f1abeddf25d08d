//! The bodies of fuzz targets: what is done with any bytes that a plugin may send, or a policy may say.
//!
//! Each panics where a promise is broken. `fuzz/` wraps them for libFuzzer, and the tests give them the saved inputs.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a body fails by panicking; it is for this project's tests alone"
)]

mod conversation;
mod descriptors;
mod main_socket;
mod rings;
mod served;
mod vcpu_end;
mod vcpu_messages;

pub use conversation::conversation;
pub use main_socket::main_socket;
pub use rings::rings;
pub use vcpu_messages::vcpu_messages;

use arbitrary::{Arbitrary, Unstructured};

pub use crate::seccomp::policy;

/// A number; 0 behind the input's end.
fn number<'a, T: Arbitrary<'a>>(input: &mut Unstructured<'a>) -> T {
    input.arbitrary().expect("numbers without end")
}

/// Up to 65535 bytes, as many as there are: their count comes first, in one byte, or behind a 255 in two.
fn bytes<'a>(input: &mut Unstructured<'a>) -> &'a [u8] {
    let len = match number::<u8>(input) {
        u8::MAX => usize::from(number::<u16>(input)),
        short => short.into(),
    };
    input.bytes(len.min(input.len())).expect("as many as there are")
}

#[cfg(test)]
mod tests {
    use test_utils::corpus::each_input;

    use super::*;

    #[test]
    fn saved_inputs_of_main_socket_break_nothing() {
        each_input("main_socket", main_socket);
    }

    #[test]
    fn saved_inputs_of_vcpu_messages_break_nothing() {
        each_input("vcpu_messages", vcpu_messages);
    }

    #[test]
    fn saved_inputs_of_rings_break_nothing() {
        each_input("rings", rings);
    }

    #[test]
    fn saved_inputs_of_policy_break_nothing() {
        each_input("policy", policy);
    }

    #[test]
    fn saved_inputs_of_conversation_break_nothing() {
        each_input("conversation", |input| {
            conversation(input);
        });
    }
}
