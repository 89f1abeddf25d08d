//! The interrupt controllers of mock and KVM are the same after any schedule of lines, commands and interrupts taken.
//! `PROPTEST_CASES` says how many are tried.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod apics;
mod pics;

use hypervisor::{Direction, Exit, Vcpu};
use proptest::test_runner::{Config, TestRunner};
use test_utils::guest::{Guest, RAM_START, interrupts};
use test_utils::memory;

/// Where the guest asks for words, and where it writes what it has read.
const COMMAND_PORT: u16 = 0x74;
const RESULT_PORT: u16 = 0x76;

fn runner() -> TestRunner {
    TestRunner::new(Config { failure_persistence: None, ..Config::default() })
}

/// Handlers that tell their vector and do not return, so that interrupts stay off: they go on at `back`.
fn handlers_that_do_not_return(guest: &Guest, back: u16) {
    for vector in 0..=u8::MAX {
        let handler = 0x2800 + 8 * u16::from(vector);
        let [low, high] = back.wrapping_sub(handler + 7).to_le_bytes();
        // mov al, vector; out HANDLER_PORT, al; jmp back
        let code = [0xb0, vector, 0xe6, interrupts::HANDLER_PORT as u8, 0xe9, low, high];
        memory::write_at(&guest.ram, u64::from(handler) - RAM_START, &code);
    }
}

/// Answers the guest's questions with these, up to its next: what it has written meanwhile.
fn command(vcpu: &mut dyn Vcpu, words: &[u32]) -> Option<u32> {
    let mut written = None;
    let mut words = words.iter();
    if let Some(word) = words.next() {
        // The guest has asked already, for the first word of a command.
        vcpu.answer(&word.to_le_bytes()[..2]).unwrap();
    }
    loop {
        match vcpu.run().unwrap() {
            Exit::Interrupted => {}
            Exit::Access(access) if access.direction() == Direction::Write => {
                assert!([RESULT_PORT, interrupts::HANDLER_PORT].map(u64::from).contains(&access.address()));
                assert!(written.is_none(), "one thing at a time");
                let mut value = [0; 4];
                value[..access.len()].copy_from_slice(vcpu.access_data());
                written = Some(u32::from_le_bytes(value));
            }
            Exit::Access(access) => {
                assert_eq!(access.address(), u64::from(COMMAND_PORT));
                let Some(word) = words.next() else { return written };
                vcpu.answer(&word.to_le_bytes()[..access.len()]).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
}
