//! The VMM's policy held against what a VMM was seen to call, for `.ci/trace-vmm-syscalls`.

use std::collections::BTreeSet;
use std::fs;

use syscalls::Sysno;

use super::policy::{Comparison, Otherwise, Policy, Rule};
use super::vmm;

/// A call that was made. Arguments that are not told are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Traced {
    call: Sysno,
    arguments: [u64; 6],
}

impl Traced {
    /// `ioctl 0x5 0xae80 0`: the name, then the arguments in hexadecimal.
    fn parse(line: &str) -> Self {
        let mut words = line.split_whitespace();
        let name = words.next().unwrap();
        let call = name.parse().unwrap_or_else(|_| panic!("no system call is called {name}"));
        let mut arguments = [0; 6];
        for (argument, word) in arguments.iter_mut().zip(words) {
            let digits = word.strip_prefix("0x").unwrap_or(word);
            *argument = u64::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("no hexadecimal number: {line}"));
        }
        Self { call, arguments }
    }

    /// The alternatives of the call's rule that allow it, by number; `None` if that policy says nothing of it.
    fn allowed_by(&self, policy: &Policy) -> Option<Vec<usize>> {
        let Rule { allowed, otherwise } = policy.rules.get(&self.call)?;
        let holds = |(number, all_of): (usize, &Vec<_>)| {
            let holds = all_of.iter().all(|one: &Comparison| one.holds(&self.arguments));
            holds.then_some(number)
        };
        let alternatives: Vec<_> = allowed.iter().enumerate().filter_map(holds).collect();
        let refused_by_an_error = *otherwise != Otherwise::Violation;
        (!alternatives.is_empty() || refused_by_an_error).then_some(alternatives)
    }
}

/// What is wrong with a policy of two parts, in lines; empty if it says just what was traced, and exceptions.
fn differences(traced: &Policy, exceptions: &Policy, calls: &BTreeSet<Traced>) -> Vec<String> {
    let mut differences = BTreeSet::new();
    let mut made = BTreeSet::new();
    let mut reached = BTreeSet::new();
    for call in calls {
        match call.allowed_by(traced) {
            Some(alternatives) => {
                made.insert((call.call, None));
                made.extend(alternatives.into_iter().map(|number| (call.call, Some(number))));
            }
            // It may be one that only some runs make.
            None if call.allowed_by(exceptions).is_some() => drop(reached.insert(call.call)),
            None => drop(differences.insert(format!("called, and in neither part: {call:x?}"))),
        }
    }
    for call in reached {
        println!("an exception that was called: {call}");
    }
    for (call, rule) in &traced.rules {
        if !made.contains(&(*call, None)) {
            differences.insert(format!("in the first part, and never called: {call}"));
            continue;
        }
        for (number, all_of) in rule.allowed.iter().enumerate() {
            if !made.contains(&(*call, Some(number))) {
                differences.insert(format!("in the first part, and never called: {call} where {all_of:x?}"));
            }
        }
    }
    differences.into_iter().collect()
}

#[test]
#[ignore = "for .ci/trace-vmm-syscalls, which traces first: TRACED is the directory with the calls"]
fn the_vmms_policy_is_what_was_traced() {
    let directory = std::env::var_os("TRACED").expect("TRACED");
    let mut calls = BTreeSet::new();
    for file in fs::read_dir(directory).unwrap() {
        calls.extend(fs::read_to_string(file.unwrap().path()).unwrap().lines().map(Traced::parse));
    }
    let [traced, exceptions] = vmm::policy().unwrap();
    let differences = differences(&traced, &exceptions, &calls);
    assert!(differences.is_empty(), "{} calls; vmm.policy is wrong:\n{}", calls.len(), differences.join("\n"));
}

#[test]
fn calls_of_neither_part_and_rules_without_a_call_are_differences() {
    let policy = |text| Policy::from_text("a policy".as_ref(), text).unwrap();
    let traced = policy(
        "read: 1\nioctl: arg1 == 0xae80 || arg1 == 0xae41\nopen: return EACCES\nprctl: arg0 == 15; return EINVAL",
    );
    let exceptions = policy("writev: 1\nioctl: arg1 == 0x541b");
    let calls = |lines: &str| lines.lines().map(Traced::parse).collect::<BTreeSet<_>>();
    let all = "read\nioctl 0x5 0xae80\nioctl 5 0xae41 0\nopen\nprctl 0xf\nprctl 0x99\nwritev\nioctl 0x5 0x541b";
    assert_eq!(differences(&traced, &exceptions, &calls(all)), [""; 0]);
    let fewer = calls(&all.replace("open\n", "").replace("ioctl 5 0xae41 0\n", ""));
    let found = differences(&traced, &exceptions, &fewer);
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found[0].contains("never called: ioctl where") && found[0].contains("ae41"), "{found:#?}");
    assert!(found[1].contains("never called: open"), "{found:#?}");
    let found = differences(&traced, &exceptions, &calls(&format!("{all}\nmount\nioctl 0x5 0x1")));
    assert_eq!(found.len(), 2, "{found:#?}");
    assert!(found.iter().all(|found| found.starts_with("called, and in neither part")), "{found:#?}");
}
