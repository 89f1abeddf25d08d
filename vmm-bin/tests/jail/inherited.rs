//! What a VMM inherits from who started it, and what its plugin then has of it.

use std::io;

use rustix::process::{Resource, Signal, getrlimit};

use crate::common::{Ended, Outboard};
use crate::kit::{Host, User, in_each_setting};

in_each_setting! {
    sigchld_ignored
    every_signal_blocked_or_ignored
    a_hangup_ignored_by_nohup_stays_ignored
    standard_descriptors_closed
    a_umask_that_hides_everything
    no_random_addresses
    a_real_time_priority
    a_negative_nice_value_and_oom_protection
    hard_limits_of_a_plugin
    a_hard_limit_of_core_dumps_of_0
}

/// Calls of the C library's between fork and exec, which return -1 where they fail.
fn before(outboard: Outboard, call: fn() -> i32) -> Outboard {
    outboard.before(move || if call() == -1 { Err(io::Error::last_os_error()) } else { Ok(()) })
}

/// What the plugin says of `name`.
fn value<'e>(ended: &'e Ended, name: &str) -> &'e str {
    let line = ended.stdout.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name}: {ended:#?}"))
}

#[allow(unsafe_code, reason = "plain numbers")]
fn sigchld_ignored(host: &Host) {
    // SAFETY: no code of this program's runs by it.
    let ignore = || unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) as i32 };
    for (options, code) in [(&[][..], 0), (&["--disable-sandbox"], 0), (&[], 7)] {
        let ended = before(host.run(options, "probe", &[&format!("exit={code}")]), ignore).run();
        match code {
            0 => ended.assert_success(),
            _ => ended.assert_failure(&["exited with code 7"]),
        };
    }
}

#[allow(unsafe_code, reason = "a mask is read by the call")]
fn every_signal_blocked_or_ignored(host: &Host) {
    let block_and_ignore = || {
        // SAFETY: `all` is what the calls write and read; ignoring runs no code.
        unsafe {
            for signal in (1..32).filter(|signal| *signal != libc::SIGHUP) {
                libc::signal(signal, libc::SIG_IGN);
            }
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const all, std::ptr::null_mut())
        }
    };
    let ended = before(host.inspect(&[]), block_and_ignore).run();
    ended.assert_success();
    for line in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
        assert!(ended.stdout.iter().any(|found| found == line), "no {line:?}: {ended:#?}");
    }
    let mut running =
        before(host.run(&["--plugin-stdio"], "probe", &["print=ready", "hang"]), block_and_ignore).start();
    running.await_line("ready");
    running.signal(Signal::TERM);
    running.end().assert_failure(&["ended by signal 15 (SIGTERM)"]).assert_logged(&["did not exit in time"]);
}

#[allow(unsafe_code, reason = "plain numbers")]
fn a_hangup_ignored_by_nohup_stays_ignored(host: &Host) {
    // SAFETY: no code of this program's runs by it.
    let ignore = || unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) as i32 };
    let steps = ["print=ready", "connect", "reserve", "vcpus", "idle=300", "exit=0"];
    let mut running = before(host.run(&["--plugin-stdio"], "probe", &steps), ignore).start();
    running.await_line("ready");
    running.signal(Signal::HUP);
    running.end().assert_success();
}

#[allow(unsafe_code, reason = "plain numbers")]
fn standard_descriptors_closed(host: &Host) {
    // SAFETY: the program that follows finds them closed, and no code of this one's runs any more.
    let close = || unsafe { (0..3).map(|number| libc::close(number)).sum() };
    for options in [&[][..], &["--plugin-stdio"], &["--disable-sandbox"]] {
        let ended =
            before(host.run(options, "probe", &["connect", "reserve", "event", "vcpus", "exit=0"]), close).run();
        assert_eq!(ended.code, Some(0), "{options:?}: {ended:#?}");
    }
}

#[allow(unsafe_code, reason = "plain numbers")]
fn a_umask_that_hides_everything(host: &Host) {
    // SAFETY: it cannot fail.
    let umask = || unsafe { libc::umask(0o777) as i32 };
    let mount = format!("{}:/some/where/else", host.text("given"));
    let ended = before(host.inspect(&["--plugin-mount", &mount]), umask).run();
    ended.assert_success();
    assert_eq!(value(&ended, "umask"), "777");
}

#[allow(unsafe_code, reason = "plain numbers")]
fn no_random_addresses(host: &Host) {
    // SAFETY: plain numbers.
    let fixed = || unsafe { libc::personality((libc::ADDR_NO_RANDOMIZE | libc::UNAME26) as u64) };
    let ended = before(host.inspect(&[]), fixed).run();
    ended.assert_success();
    assert_eq!(value(&ended, "personality"), "0");
}

#[allow(unsafe_code, reason = "a parameter is read by the call")]
fn a_real_time_priority(host: &Host) {
    if host.user == User::Ordinary {
        // Only root may set one here.
        return;
    }
    let fifo = || {
        let lowest = libc::sched_param { sched_priority: 1 };
        // SAFETY: `lowest` is what the call reads.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) }
    };
    for (options, policy) in [(&[][..], libc::SCHED_OTHER), (&["--plugin-realtime"], libc::SCHED_FIFO)] {
        let ended = before(host.inspect(options), fifo).run();
        ended.assert_success();
        assert_eq!(value(&ended, "policy"), policy.to_string(), "{options:?}");
    }
}

#[allow(unsafe_code, reason = "plain numbers")]
fn a_negative_nice_value_and_oom_protection(host: &Host) {
    if host.user == User::Ordinary {
        // Only root may have them here. A positive nice value stays.
        // SAFETY: plain numbers.
        let ended = before(host.inspect(&[]), || unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 7) }).run();
        assert_eq!(value(&ended, "nice"), "7", "{ended:#?}");
        return;
    }
    for (options, nice, oom) in [(&[][..], "0", "0"), (&["--plugin-realtime"], "-5", "-500")] {
        let outboard = host.inspect(options).before(|| {
            // SAFETY: plain numbers.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -5) };
            let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
            let file = rustix::fs::open(c"/proc/self/oom_score_adj", flags, rustix::fs::Mode::empty())?;
            // Where root lacks CAP_SYS_RESOURCE, as in containers, it may not.
            let _ = rustix::io::write(&file, b"-500");
            Ok(())
        });
        let ended = outboard.run();
        ended.assert_success();
        assert_eq!(value(&ended, "nice"), nice, "{options:?}");
        assert!(["0", oom].contains(&value(&ended, "oom")), "{options:?}: {ended:#?}");
    }
}

fn hard_limits_of_a_plugin(host: &Host) {
    let ended = host.inspect(&[]).run();
    ended.assert_success();
    let at_most = |resource, most: u64| getrlimit(resource).maximum.map_or(most, |own| own.min(most)).to_string();
    assert_eq!(value(&ended, "pending signals"), at_most(Resource::Sigpending, 512));
    assert_eq!(value(&ended, "locked memory"), at_most(Resource::Memlock, 8 << 20));
    for none in ["message queues", "highest priority", "highest nice"] {
        assert_eq!(value(&ended, none), "0", "{none}");
    }
}

/// As services have it: the plugin's cannot be higher.
fn a_hard_limit_of_core_dumps_of_0(host: &Host) {
    let ended = host.inspect(&[]).limited(Resource::Core, 0).run();
    ended.assert_success();
    assert_eq!(value(&ended, "core"), "0");
}
