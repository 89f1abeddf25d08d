//! A call under way: what it prints, signals to it, its end.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};

use super::{Ended, LIMIT, Outboard, Span, leftover};

/// The lines of a pipe, as they come.
fn lines(pipe: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A call under way.
pub(crate) struct Running {
    /// Its script must outlive it.
    outboard: Outboard,
    child: Child,
    started: Span,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    /// Lines of standard output that were waited for.
    seen: Vec<String>,
    /// Lines of standard error that were waited for.
    logged: Vec<String>,
}

/// A plugin that will outlive its VMM, for a moment.
pub(crate) struct Heir {
    pidfd: OwnedFd,
    reaper: leftover::Adopted,
}

impl Running {
    /// Starts it in a process group of its own.
    pub(super) fn start(mut outboard: Outboard) -> Self {
        let stdin = std::mem::replace(&mut outboard.stdin, Stdio::null());
        let stdout = outboard.stdout.take().unwrap_or_else(Stdio::piped);
        let stderr = outboard.stderr.take().unwrap_or_else(Stdio::piped);
        outboard.command.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0);
        let started = Span::begin();
        let mut child = leftover::spawn(&mut outboard.command);
        let stdout = child.stdout.take().map_or_else(|| lines(std::io::empty()), lines);
        let stderr = child.stderr.take().map_or_else(|| lines(std::io::empty()), lines);
        Self { outboard, child, started, stdout, stderr, seen: Vec::new(), logged: Vec::new() }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits until `wanted` is printed.
    pub(crate) fn await_line(&mut self, wanted: &str) {
        self.await_line_within(wanted, LIMIT);
    }

    /// [`await_line`](Self::await_line), with as much as `limit` between two lines.
    pub(crate) fn await_line_within(&mut self, wanted: &str, limit: Duration) {
        loop {
            match self.stdout.recv_timeout(limit) {
                Ok(line) => {
                    let found = line == wanted;
                    self.seen.push(line);
                    if found {
                        return;
                    }
                }
                Err(error) => self.give_up(&format!("{error} waiting for the line {wanted:?}")),
            }
        }
    }

    /// Waits until a line with all of `parts` comes on standard error.
    pub(crate) fn await_logged(&mut self, parts: &[&str]) {
        loop {
            match self.stderr.recv_timeout(LIMIT) {
                Ok(line) => {
                    let found = parts.iter().all(|part| line.contains(part));
                    self.logged.push(line);
                    if found {
                        return;
                    }
                }
                Err(error) => self.give_up(&format!("{error} waiting for a line with {parts:?} on standard error")),
            }
        }
    }

    /// Waits until the plugin's process is there, which may not have begun to be the plugin yet; in a jail, its init.
    pub(crate) fn await_plugin(&self) -> Pid {
        // The jail's helper is a child too, and may be there still when the plugin is.
        let jailed = self.outboard.is_jailed();
        loop {
            let children = self.children();
            if let Some(pid) = children.split_whitespace().find(|pid| !jailed || is_an_init(pid)) {
                return Pid::from_raw(pid.parse().unwrap()).unwrap();
            }
            assert!(
                self.started.elapsed() < LIMIT,
                "waited {LIMIT:?} without success for the plugin of {:?}",
                self.outboard
            );
        }
    }

    /// The children of its first thread, as /proc tells them.
    fn children(&self) -> String {
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.child.id())).unwrap_or_default()
    }

    /// Sends a signal to `outboard` alone.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Sends a signal to all of its process group, as a terminal does.
    pub(crate) fn signal_group(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).unwrap();
    }

    /// Kills `outboard` alone, and waits for the end of its plugin: what that still printed.
    pub(crate) fn kill(mut self) -> Vec<String> {
        let heir = self.heir();
        self.child.kill().unwrap();
        self.end_killed(heir)
    }

    /// The plugin, or its jail's init, which is this process's to wait for where `outboard` is killed. By then that has waited
    /// for the jail's helper itself.
    pub(crate) fn heir(&self) -> Heir {
        let plugin = self.await_plugin();
        test_utils::wait::until("the helper is gone", || self.children().split_whitespace().count() == 1);
        Heir { pidfd: pidfd_open(plugin, PidfdFlags::empty()).unwrap(), reaper: leftover::adopt(plugin) }
    }

    /// Waits for the end of `outboard`, which is being killed, and of its plugin: what that still printed.
    pub(crate) fn end_killed(mut self, Heir { pidfd, reaper }: Heir) -> Vec<String> {
        if !is_readable_in_time(&pidfd_open(self.pid(), PidfdFlags::empty()).unwrap()) {
            self.give_up("it lives on");
        }
        self.child.wait().unwrap();
        if !is_readable_in_time(&pidfd) {
            self.give_up("the plugin lives on without its VMM");
        }
        reaper.reap();
        leftover::assert_none(self.child.id(), &format!("{:?}", self.outboard.command));
        rest(&self.stdout).unwrap()
    }

    /// Waits for its end, and sees that no process is left.
    pub(crate) fn end(self) -> Ended {
        let ended = self.end_however();
        assert_eq!(ended.signal, None, "it was killed: {ended:#?}");
        ended
    }

    /// [`end`](Self::end) of one that a signal may have killed. No other test may run in this process, whom what is left for
    /// a moment would disturb.
    pub(crate) fn end_however(mut self) -> Ended {
        if !is_readable_in_time(&pidfd_open(self.pid(), PidfdFlags::empty()).unwrap()) {
            self.give_up(&format!("no end after {LIMIT:?}"));
        }
        let (took, busy) = (self.started.elapsed(), self.started.busy());
        let cpu_time = cpu_time(&self.child);
        let status = self.child.wait().unwrap();
        let call = format!("{:?}", self.outboard.command);
        match status.signal() {
            None => leftover::assert_none(self.child.id(), &call),
            // What it could not wait for itself.
            Some(_) => leftover::await_ends(self.child.id()),
        }
        let mut stdout = std::mem::take(&mut self.seen);
        stdout.extend(rest(&self.stdout).unwrap_or_else(|| panic!("standard output stays open after {call}")));
        let mut stderr = std::mem::take(&mut self.logged);
        stderr.extend(rest(&self.stderr).unwrap_or_else(|| panic!("standard error stays open after {call}")));
        Ended { call, code: status.code(), signal: status.signal(), stdout, stderr, took, busy, cpu_time }
    }

    fn give_up(&mut self, problem: &str) -> ! {
        let _ = self.child.kill();
        let _ = self.child.wait();
        leftover::kill_all(self.child.id());
        let stderr: Vec<_> = self.logged.drain(..).chain(self.stderr.try_iter()).collect();
        panic!("{problem}: {:?}\nits standard error: {stderr:#?}", self.outboard.command);
    }
}

/// Whether the process is the first in a PID namespace below this one.
fn is_an_init(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
}

fn is_readable_in_time(fd: &OwnedFd) -> bool {
    let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
    poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)).unwrap() == 1
}

/// The only child of a process of one thread, or of its first: the init, where that is the VMM, and the plugin, where that is
/// the init.
pub(crate) fn only_child(parent: Pid) -> Pid {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let child = children.split_whitespace().next().unwrap_or_else(|| panic!("{parent} has no child"));
    Pid::from_raw(child.parse().unwrap()).unwrap()
}

/// Kills a process that is there.
pub(crate) fn kill(pid: Pid) {
    kill_process(pid, Signal::KILL).unwrap();
}

/// What is left to come; `None` if that has no end.
fn rest(lines: &Receiver<String>) -> Option<Vec<String>> {
    let mut all = Vec::new();
    loop {
        match lines.recv_timeout(LIMIT) {
            Ok(line) => all.push(line),
            Err(RecvTimeoutError::Disconnected) => return Some(all),
            Err(RecvTimeoutError::Timeout) => return None,
        }
    }
}

/// What an exited process that nobody has waited for yet used in all.
fn cpu_time(child: &Child) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    // Behind the name in parentheses; proc_pid_stat(5) counts from 1, and field 3 comes first here.
    let fields: Vec<_> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: u64 = fields[14 - 3].parse::<u64>().unwrap() + fields[15 - 3].parse::<u64>().unwrap();
    Duration::from_secs(ticks) / rustix::param::clock_ticks_per_second() as u32
}
