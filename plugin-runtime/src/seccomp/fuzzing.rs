//! A policy's text: read, compiled, and the program compared with what the text says.

use std::path::Path;

use super::compile::{TRAP, X32_BIT, compile};
use super::interpreter::{Call, meaning, run};
use super::policy::{Policy, Rule};
use crate::error::Error;

/// Reads any text as a policy. An error names a line that there is; a program answers as the policy says.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Policy::from_text(Path::new("policy"), text) {
        Ok(policy) => check(&policy),
        Err(Error::Policy { line, what, .. }) => {
            assert!((1..=text.lines().count()).contains(&line), "line {line}: {what}");
        }
        Err(error) => panic!("{error}"),
    }
}

fn check(policy: &Policy) {
    let program = compile(policy, TRAP);
    for (name, rule) in &policy.rules {
        for arguments in arguments(rule) {
            let call = Call::new(name.id() as u32, arguments);
            assert_eq!(run(&program, &call), meaning(policy, &call, TRAP), "{call:?}");
        }
        let other = Call { number: name.id() as u32 | X32_BIT, ..Call::new(0, [0; 6]) };
        assert_eq!(run(&program, &other), TRAP);
    }
}

/// Arguments on either side of each of a rule's constants, with all others at some other constant of its.
fn arguments(rule: &Rule) -> Vec<[u64; 6]> {
    let constants: Vec<u64> = rule.allowed.iter().flatten().map(|one| one.constant).take(16).collect();
    let mut all = vec![[0; 6], [u64::MAX; 6]];
    for &constant in &constants {
        for near in [constant, constant.wrapping_sub(1), constant.wrapping_add(1), !constant, constant ^ 1 << 32] {
            all.push([near; 6]);
            all.extend(constants.iter().enumerate().map(|(index, &other)| {
                let mut arguments = [other; 6];
                arguments[index % 6] = near;
                arguments
            }));
        }
    }
    all
}
