//! What every thread of a running VM could still do, as the kernel tells it: the VMM's and the plugin's.

use std::fs;
use std::path::Path;

use rustix::process::Pid;
use test_utils::wait;

use crate::common::{BOOTED, hex, only_child, talker};
use crate::kit::{Host, User, in_each_setting};

in_each_setting! {
    no_thread_holds_more_than_it_needs
}

const NONE: &str = "0000000000000000";
const VCPUS: usize = 2;

fn no_thread_holds_more_than_it_needs(host: &Host) {
    for options in [&["--plugin-stdio"][..], &["--disable-sandbox"]] {
        let memory = format!("memory={}", hex(&talker().code()));
        let before_boot = BOOTED.split(' ').take_while(|step| !step.starts_with("wait"));
        let mut steps: Vec<_> = before_boot.map(|step| if step == "memory" { &memory } else { step }).collect();
        steps.extend(["print=started", "serve-all=1000000000000"]);
        let cpus = VCPUS.to_string();
        let options: Vec<_> = options.iter().copied().chain(["-q", "--cpus", &cpus]).collect();
        let mut running = host.run(&options, "probe", &steps).start();
        running.await_line("started");
        for status in threads(running.pid(), 1 + VCPUS) {
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status.value(set), NONE, "{set} of the VMM's {status:#?}");
            }
            // An ordinary user may not shrink it, and has nothing of it either: no executable gives anything any more.
            let bounding = if host.user == User::Root { NONE.to_owned() } else { own("CapBnd") };
            assert_eq!(status.value("CapBnd"), bounding, "the VMM's {status:#?}");
            assert_eq!((status.value("NoNewPrivs"), status.value("Seccomp")), ("1", "2"), "the VMM's {status:#?}");
        }
        if !options.contains(&"--disable-sandbox") {
            for status in threads(only_child(only_child(running.pid())), 1 + VCPUS) {
                for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                    assert_eq!(status.value(set), NONE, "{set} of the plugin's {status:#?}");
                }
                let held = (status.value("NoNewPrivs"), status.value("Seccomp"));
                assert_eq!(held, ("1", "2"), "the plugin's {status:#?}");
            }
        }
        running.kill();
    }
}

/// What the kernel tells of a thread.
#[derive(Debug)]
struct Status(String);

impl Status {
    fn of(task: &Path) -> Self {
        Self(fs::read_to_string(task.join("status")).unwrap())
    }

    fn value(&self, name: &str) -> &str {
        let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {name} in {self:#?}")).trim()
    }
}

fn own(name: &str) -> String {
    Status::of(Path::new("/proc/thread-self")).value(name).to_owned()
}

/// Of all threads, once there are as many as are to come.
fn threads(process: Pid, expected: usize) -> Vec<Status> {
    let tasks = format!("/proc/{process}/task");
    let count = || fs::read_dir(&tasks).unwrap().count();
    wait::until("all threads are there", || count() >= expected);
    fs::read_dir(&tasks).unwrap().map(|task| Status::of(&task.unwrap().path())).collect()
}
