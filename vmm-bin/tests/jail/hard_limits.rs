//! What the plugin may use up is no more than the VMM itself may have, and a VMM that may have less runs its plugin all the same.

use rustix::process::{Resource, getrlimit};

use crate::common::{BOOTED, Outboard, hex, talker};
use crate::kit::{Host, in_each_setting};

in_each_setting! {
    what_is_above_the_hard_limit_is_lowered_to_it_with_a_warning_and_a_guest_runs
    what_is_not_above_the_hard_limit_is_not_lowered
}

/// More than any hard limit here.
const WISHED: &str = "1000000000";

/// A limit that an option sets. Those of every plugin are lowered without a word.
struct Limit {
    resource: Resource,
    option: &'static str,
    name: &'static str,
    hard: u64,
}

impl Limit {
    /// All of them, each with a hard limit to run under; this process's own where that is lower.
    fn all() -> [Self; 2] {
        let all = [
            Self { resource: Resource::Nofile, option: "--plugin-max-descriptors", name: "descriptors", hard: 2_000 },
            // It is on all of a user's processes, so it leaves room for those of the tests beside this one.
            Self { resource: Resource::Nproc, option: "--plugin-max-processes", name: "processes", hard: 20_000 },
        ];
        all.map(|limit| Self {
            hard: getrlimit(limit.resource).maximum.map_or(limit.hard, |own| own.min(limit.hard)),
            ..limit
        })
    }

    fn on(&self, outboard: Outboard) -> Outboard {
        outboard.limited(self.resource, self.hard)
    }
}

/// A run whose guest makes some exits.
fn guest(host: &Host, options: &[&str]) -> Outboard {
    let memory = format!("memory={}", hex(&talker().code()));
    let steps = format!("{BOOTED} resume serve=20 exit=0");
    let steps: Vec<_> = steps.split(' ').map(|step| if step == "memory" { &memory } else { step }).collect();
    host.run(options, "probe", &steps)
}

fn what_is_above_the_hard_limit_is_lowered_to_it_with_a_warning_and_a_guest_runs(host: &Host) {
    for limit in Limit::all() {
        let Limit { option, name, hard, .. } = limit;
        let warning = format!("the plugin's limit of {WISHED} {name} is above the hard limit: it gets {hard}");
        for call in [guest(host, &[option, WISHED]), host.inspect(&[option, WISHED])] {
            let ended = limit.on(call).run();
            ended.assert_success();
            assert_eq!((ended.logged(&["WARN", &warning]), ended.logged(&["WARN"])), (1, 1), "{ended:#?}");
            // What it has is what was said.
            assert!(ended.stdout.is_empty() || ended.stdout.contains(&format!("{name} {hard}")), "{ended:#?}");
        }
    }
}

fn what_is_not_above_the_hard_limit_is_not_lowered(host: &Host) {
    for limit in Limit::all() {
        for few in [limit.hard, 1000] {
            let ended = limit.on(host.inspect(&[limit.option, &few.to_string()])).run();
            ended.assert_success();
            assert_eq!(ended.logged(&["WARN"]), 0, "{ended:#?}");
            assert!(ended.stdout.contains(&format!("{} {few}", limit.name)), "{ended:#?}");
        }
    }
}
