//! System calls that no policy's author can know of, and that are allowed where the policy makes a violation of them.

use syscalls::Sysno;

use super::policy::{Comparison, Condition, Operator, Otherwise, Policy, Rule};

/// Those that the kernel makes in a process's name. A uprobe that an administrator sets on a library makes its processes call these
/// two, from code that the kernel maps into them; called from elsewhere they end the process or fail. From Linux 6.14 on no filter is
/// asked about them; 6.11 to 6.13 ask, so a filter without them would kill a process because somebody looks at it.
///
/// `uretprobe` is of Linux 6.11, `uprobe` of 6.18.
const OF_THE_KERNEL: [Sysno; 2] = [Sysno::uretprobe, Sysno::uprobe];

/// Those that the client libraries make over rings and not over pipes. The policies of older plugins are from before there were rings.
const OF_RINGS: [Sysno; 2] = [Sysno::futex, Sysno::sched_yield];

/// What C libraries ask of standard output, which is `/dev/null` in the jail, where it would be a pipe elsewhere: whether it is a
/// terminal (TCGETS, TCGETS2; and as musl extends its sign).
const IS_A_TERMINAL: [u64; 3] = [libc::TCGETS, 0x802c_542a, 0xffff_ffff_802c_542a];

/// Allows the kernel's.
pub(super) fn allow_of_the_kernel(policy: &mut Policy) {
    for call in OF_THE_KERNEL {
        allow(policy, call, vec![vec![]]);
    }
}

/// Allows all, in the policy of a plugin.
pub(super) fn allow_all(policy: &mut Policy) {
    allow_of_the_kernel(policy);
    for call in OF_RINGS {
        allow(policy, call, vec![vec![]]);
    }
    let request = |constant| vec![Comparison { argument: 1, operator: Operator::Equal, constant }];
    allow(policy, Sysno::ioctl, IS_A_TERMINAL.map(request).into());
}

/// A rule that gives an error in place of a violation stays as it is.
fn allow(policy: &mut Policy, call: Sysno, condition: Condition) {
    let rule = policy.rules.entry(call).or_insert(Rule { allowed: vec![], otherwise: Otherwise::Violation });
    if rule.otherwise == Otherwise::Violation {
        rule.allowed.extend(condition);
    }
}
