//! Every system call by which a jail is made fails in turn, of the VMM's as of the jail's processes: the run fails and says
//! what failed, or goes on where that is right, and nothing is left behind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::fs::{self, Permissions};
use std::num::NonZeroU32;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread;

use hypervisor::mock::Mock;
use plugin_runtime::jail::{GidMap, Helper, JailConfig, Mount};
use plugin_runtime::{Config, Error, PluginCommand, Sandbox, Transport, run};
use rustix::process::{Gid, Uid, WaitOptions, geteuid, wait};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tempfile::TempDir;
use test_utils::faults::syscalls::{Call, Struck, Whose, failing_of, refusing};
use test_utils::log;
use test_utils::resources::Resources;

/// No run gets this by itself.
const EDQUOT: i32 = 122;

/// Whose calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Vmm,
    /// The VMM's child, until it is the helper.
    Forked,
    Helper,
    Init,
    /// Until it is the plugin.
    Plugin,
}

/// Where the VMM is root's, the second child is the one by which the helper makes a user namespace for mounts.
const fn all(is_root: bool) -> [(Who, Whose); 5] {
    let more = is_root as usize;
    [
        (Who::Vmm, Whose::Own),
        (Who::Forked, Whose::Child { nth: 1, execs: 0 }),
        (Who::Helper, Whose::Child { nth: 1, execs: 1 }),
        (Who::Init, Whose::Child { nth: 2 + more, execs: 0 }),
        (Who::Plugin, Whose::Child { nth: 3 + more, execs: 0 }),
    ]
}

/// Calls whose failure nobody is told of, and why that is right.
const SILENT: [(Who, &str, &str); 16] = [
    (Who::Vmm, "prlimit64", "more descriptors are wished for: the quotas are what holds"),
    (Who::Vmm, "sendto", "the library for signals tries whether it can wake itself"),
    (Who::Vmm, "fcntl", "a pipe that cannot be made larger is a smaller one; see `is_hint`"),
    (Who::Vmm, "openat", "without the control group's quota all processors count"),
    (Who::Vmm, "statx", "as above"),
    (Who::Vmm, "lseek", "as above"),
    (Who::Vmm, "read", "as above; and an eventfd that was not emptied is looked at once more"),
    (Who::Vmm, "sched_getaffinity", "without it one processor counts, and nothing is polled"),
    (Who::Vmm, "setsockopt", "a socket's buffer keeps the size that it has"),
    (Who::Vmm, "prctl", "a thread without a name"),
    (Who::Vmm, "epoll_ctl", "what is watched no more is closed next, or stays ready without success; see `is_hint`"),
    (Who::Vmm, "preadv2", "the shutdown event is emptied in a loop"),
    (Who::Vmm, "readlink", "a library directory whose path cannot be resolved is given to the plugin as it is named"),
    (Who::Vmm, "wait4", "nobody else waits for the helper, so the kernel does not refuse it"),
    (
        Who::Helper,
        "readlink",
        "in place of a link there is what it leads to; a library directory without a name is left out",
    ),
    (Who::Helper, "statx", "a library directory that cannot be looked at is left out"),
];

/// Calls that are told of in other words than the injected errno, because who makes them knows no better.
const OTHER_WORDS: [(Who, &str, &str); 1] = [(Who::Plugin, "landlock_create_ruleset", "the landlock rules")];

/// Who runs the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum User {
    Root,
    /// The user of the tests, or nobody where that is root. Then it is init that takes what is mounted.
    Ordinary,
}

/// One test, since it compares what the process holds.
#[test]
fn whatever_fails_of_a_jail_is_named_and_undone() {
    log::keep();
    let (user, again) = if geteuid().is_root() { (User::Root, Some(User::Ordinary)) } else { (User::Ordinary, None) };
    let program = reachable();
    let jail = Jail { program: program.path().join("outboard"), user };
    for (who, whose) in all(user == User::Root) {
        let cases = each_call(&jail, who, whose);
        println!("{user:?}, {who:?}: {cases} system calls failed, one a run");
        assert!(cases > 20 || who == Who::Forked, "{who:?}: {cases}");
    }
    the_filter(&jail);
    if let Some(user) = again {
        let cases = each_call(&Jail { user, ..jail }, Who::Init, Whose::Child { nth: 2, execs: 0 });
        println!("{user:?}, {:?}: {cases} system calls failed, one a run", Who::Init);
    }
}

/// The helper, where every user can start it.
fn reachable() -> TempDir {
    let folder = TempDir::new().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_outboard"), folder.path().join("outboard")).unwrap();
    folder
}

/// How many there were.
fn each_call(jail: &Jail, who: Who, whose: Whose) -> usize {
    thread::scope(|scope| scope.spawn(|| jail.run(false)).join().unwrap()).unwrap();
    let (before, mounts) = (Resources::own(), mounts());
    // A program's loader and its standard library do without much, or end it, before its own first call.
    let mut begun = who != Who::Helper;
    for n in 1.. {
        let ended = catch_unwind(AssertUnwindSafe(|| failing_of(whose, Call::ANY, n, EDQUOT, || jail.run(false))));
        let mut told = log::take();
        let Ok((result, struck)) = ended else {
            // The standard library's look whether its child has become another program: it takes a failure for a bug.
            assert_eq!(who, Who::Vmm, "call {n}");
            let _ = wait(WaitOptions::empty());
            continue;
        };
        let Some(struck) = struck else { return n - 1 };
        told.extend(result.err().map(|error| error.to_string()));
        let what = format!("call {n} of {who:?}, {}{:x?}", struck.name(), struck.args);
        let is_named = told.iter().any(|line| line.contains(&format!("os error {EDQUOT}")));
        begun |= is_named;
        assert!(is_named || !begun || may_be(who, &struck, &told), "{what}: {told:#?}");
        if struck.name() == "wait4" && who == Who::Vmm {
            let _ = wait(WaitOptions::empty());
        }
        Resources::assert_no_more_than(before, &what);
        assert_eq!(self::mounts(), mounts, "{what}");
    }
    unreachable!("numbers do not end")
}

/// Whether it is right that the errno is not told.
fn may_be(who: Who, struck: &Struck, told: &[String]) -> bool {
    if told.is_empty() {
        let argument = struck.args[1];
        let is_hint = match struck.name() {
            "fcntl" => argument == libc::F_SETPIPE_SZ as u64,
            "epoll_ctl" => argument == libc::EPOLL_CTL_DEL as u64,
            _ => true,
        };
        is_hint && SILENT.iter().any(|(whose, name, _)| (*whose, *name) == (who, struck.name()))
    } else {
        let mut others = OTHER_WORDS.iter().filter(|(whose, name, _)| (*whose, *name) == (who, struck.name()));
        others.any(|(_, _, words)| told.iter().any(|line| line.contains(words)))
    }
}

/// Under a filter of the plugin's own no other can ask, so what is refused here is refused whenever it is called. Both are
/// calls of the plugin's process alone, the second also that by which it would tell.
fn the_filter(jail: &Jail) {
    let before = Resources::own();
    let told = format!("the system call filter: Disk quota exceeded (os error {EDQUOT})");
    let calls = [(Call::new("seccomp", &[libc::SYS_seccomp]), &*told), (Call::SENDMSG, "exited with code 127")];
    for (call, words) in calls {
        let error = refusing(call, EDQUOT, || jail.run(true)).unwrap_err().to_string();
        assert!(error.contains(words), "{}: {error}", call.name);
        Resources::assert_no_more_than(before, call.name);
    }
    println!("The filter: {} system calls refused, one a run", calls.len());
}

fn mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

struct Jail {
    program: PathBuf,
    user: User,
}

impl Jail {
    /// A run whose plugin ends well as soon as it is there.
    fn run(&self, has_filter: bool) -> Result<(), Error> {
        if self.user == User::Ordinary && geteuid().is_root() {
            become_nobody();
        }
        let command = PluginCommand { path: "/bin/true".into(), args: Vec::new() };
        let jail = if has_filter { JailConfig::with_filter().unwrap() } else { JailConfig::default() };
        // Only root may map groups that are not its own.
        let group = (self.user == User::Root).then_some(GidMap { inner: 5, outer: 5, count: 1 });
        let jail = JailConfig {
            helper: Helper { program: self.program.clone() },
            gid_maps: group.into_iter().collect(),
            mounts: vec![Mount { source: "/usr/share".into(), target: "/given/place".into(), writable: true }],
            ..jail
        };
        let config =
            Config { transport: Transport::Pipe, ..Config::new(NonZeroU32::MIN, Sandbox::Jail(Box::new(jail))) };
        run(&Mock::guest_code(), &command, config)
    }
}

/// Makes this thread alone nobody's.
fn become_nobody() {
    let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
    set_thread_groups(&[]).unwrap();
    set_thread_res_gid(gid, gid, gid).unwrap();
    set_thread_res_uid(uid, uid, uid).unwrap();
}
