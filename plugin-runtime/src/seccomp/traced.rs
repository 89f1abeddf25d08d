//! The VMM's policy compared with what a VMM was seen to call, for `.ci/trace-vmm-syscalls`.

use std::collections::BTreeSet;
use std::path::Path;
use std::{fmt, fs};

use syscalls::Sysno;

use super::policy::{Comparison, Otherwise, Policy, Rule};
use super::vmm;

/// A call that was made. Arguments that are not told are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Traced {
    call: Sysno,
    arguments: [u64; 6],
}

impl fmt::Display for Traced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.call)?;
        let told = self.arguments.iter().rposition(|argument| *argument != 0).map_or(0, |last| last + 1);
        self.arguments[..told].iter().try_for_each(|argument| write!(f, " {argument:x}"))
    }
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

/// What a policy of two parts says, compared with what was called.
#[derive(Debug, Default, PartialEq, Eq)]
struct Differences {
    /// Called, and in neither part.
    not_allowed: BTreeSet<String>,
    /// In the first part, and never called.
    not_called: BTreeSet<String>,
    /// Exceptions that were called, as some runs do.
    exceptions_called: BTreeSet<String>,
}

impl Differences {
    fn new(traced: &Policy, exceptions: &Policy, calls: &BTreeSet<Traced>) -> Self {
        let mut found = Self::default();
        let mut made = BTreeSet::new();
        for call in calls {
            if let Some(alternatives) = call.allowed_by(traced) {
                made.insert((call.call, None));
                made.extend(alternatives.into_iter().map(|number| (call.call, Some(number))));
            } else if call.allowed_by(exceptions).is_some() {
                found.exceptions_called.insert(call.call.to_string());
            } else {
                found.not_allowed.insert(call.to_string());
            }
        }
        for (call, rule) in &traced.rules {
            if !made.contains(&(*call, None)) {
                found.not_called.insert(call.to_string());
                continue;
            }
            for (number, all_of) in rule.allowed.iter().enumerate() {
                if !made.contains(&(*call, Some(number))) {
                    found.not_called.insert(format!("{call} where {all_of:x?}"));
                }
            }
        }
        found
    }
}

impl fmt::Display for Differences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut list = |what, calls: &BTreeSet<String>| {
            let calls: Vec<_> = calls.iter().map(String::as_str).collect();
            writeln!(f, "{what}: {}", if calls.is_empty() { "none".to_owned() } else { calls.join("\n    ") })
        };
        list("called, and in neither part", &self.not_allowed)?;
        list("in the first part, and never called", &self.not_called)?;
        list("exceptions that were called", &self.exceptions_called)
    }
}

#[test]
#[ignore = "for .ci/trace-vmm-syscalls, which traces first: TRACED is the directory with the calls"]
fn the_vmms_policy_is_what_was_traced() {
    let directory = Path::new(&std::env::var_os("TRACED").expect("TRACED")).join("calls");
    let mut calls = BTreeSet::new();
    for file in fs::read_dir(directory).unwrap() {
        calls.extend(fs::read_to_string(file.unwrap().path()).unwrap().lines().map(Traced::parse));
    }
    let [traced, exceptions] = vmm::policy().unwrap();
    let found = Differences::new(&traced, &exceptions, &calls);
    let names: BTreeSet<_> = calls.iter().map(|call| call.call).collect();
    println!("\n{} system calls were seen, with {} different arguments\n{found}", names.len(), calls.len());
    assert!(found.not_allowed.is_empty() && found.not_called.is_empty(), "vmm.policy is wrong");
}

#[test]
fn calls_of_neither_part_and_rules_without_a_call_are_differences() {
    let set = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<BTreeSet<_>>();
    let policy = |text| Policy::from_text("a policy".as_ref(), text).unwrap();
    let traced = policy(
        "read: 1\nioctl: arg1 == 0xae80 || arg1 == 0xae41\nopen: return EACCES\nprctl: arg0 == 15; return EINVAL",
    );
    let exceptions = policy("writev: 1\nioctl: arg1 == 0x541b");
    let calls = |lines: &str| lines.lines().map(Traced::parse).collect::<BTreeSet<_>>();
    let find = |lines: &str| Differences::new(&traced, &exceptions, &calls(lines));
    let all = "read\nioctl 0x5 0xae80\nioctl 5 0xae41 0\nopen\nprctl 0xf\nprctl 0x99";
    assert_eq!(find(all), Differences::default());
    let exceptions = find(&format!("{all}\nwritev\nioctl 0x5 0x541b\nioctl 0x6 0x541b"));
    assert_eq!(exceptions.exceptions_called, set(&["writev", "ioctl"]));
    assert_eq!(Differences { exceptions_called: BTreeSet::new(), ..exceptions }, Differences::default());
    let fewer = find(&all.replace("open\n", "").replace("ioctl 5 0xae41 0\n", ""));
    let not_called: Vec<_> = fewer.not_called.iter().collect();
    assert_eq!(not_called.len(), 2, "{fewer:#?}");
    assert!(not_called[0].starts_with("ioctl where") && not_called[0].contains("ae41"), "{fewer:#?}");
    assert_eq!(not_called[1], "open");
    let more = find(&format!("{all}\nmount\nioctl 0x5 0x1"));
    assert_eq!(more.not_allowed, set(&["mount", "ioctl 5 1"]));
    let text = more.to_string();
    assert!(text.contains("in neither part: ioctl 5 1\n    mount\n") && text.contains("never called: none"), "{text}");
}
