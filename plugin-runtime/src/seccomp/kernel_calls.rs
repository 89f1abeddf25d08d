//! System calls that the kernel makes in a process's name.
//!
//! A uprobe that an administrator sets on a library makes its processes call these two, from code that the kernel maps into
//! them. Called from elsewhere they end the process or fail. From Linux 6.14 on no filter is asked about them; 6.11 to 6.13 ask, so a
//! filter without them would kill a process because somebody looks at it.

use syscalls::Sysno;

use super::policy::{Otherwise, Policy, Rule};

/// `uretprobe` is of Linux 6.11, `uprobe` of 6.18.
const CALLS: [Sysno; 2] = [Sysno::uretprobe, Sysno::uprobe];

/// Allows them, where the policy has no rule of its own for them.
pub(super) fn allow(policy: &mut Policy) {
    for call in CALLS {
        policy.rules.entry(call).or_insert(Rule { allowed: vec![vec![]], otherwise: Otherwise::Violation });
    }
}
