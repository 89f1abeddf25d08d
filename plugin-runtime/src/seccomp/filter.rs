//! A policy, ready to be installed.

use std::path::Path;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use syscalls::Sysno;
use zerocopy::{FromBytes, IntoBytes};

use super::bpf::{Instruction, MAX_INSTRUCTIONS};
use super::compile::{KILL, LOG, NOTIFY, compile};
use super::implied;
use super::policy::{Comparison, Operator, Otherwise, Policy, Rule};
use super::stop_parent;
use crate::error::{Error, Result};
use crate::jail::Mount;

/// The system calls a plugin may make, as a program for the kernel, and what a violation leads to.
///
/// It is plain data: where it is installed, nothing is left to be allocated or decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub(super) program: Vec<Instruction>,
    /// What the last argument must be for the calls that the installer of the filter still has to make; see `keyed`.
    pub(super) key: u64,
    on_violation: OnViolation,
}

/// What the VMM does when the plugin makes a call that its filter does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnViolation {
    /// It kills the plugin, and the run fails. The call is not made.
    Kill,
    /// It tells of the call in its log, and the call is made.
    Log,
}

impl Filter {
    /// The policy that suits plugins of both SDKs, with any C library, and with threads. It lets no file be locked or synced.
    ///
    /// # Errors
    ///
    /// [`Error::SetUp`] where the kernel has no random numbers to give.
    pub fn builtin() -> Result<Self> {
        Self::new(BUILTIN.as_ref(), builtin()?)
    }

    /// The same for a plugin with these mounts: where one of them is writable, files may be locked and synced.
    ///
    /// # Errors
    ///
    /// [`builtin`](Self::builtin)'s.
    pub fn builtin_for(mounts: &[Mount]) -> Result<Self> {
        if !mounts.iter().any(|mount| mount.writable) {
            return Self::builtin();
        }
        let name = Path::new("the built-in writable_mounts.policy");
        let more = Policy::from_text(name, include_str!("writable_mounts.policy"))?;
        Self::new(BUILTIN.as_ref(), builtin()?.or(more))
    }

    /// The policy in the file `plugin.policy` in `directory`.
    ///
    /// # Errors
    ///
    /// [`Error::ReadPolicy`] names a file that cannot be read, [`Error::Policy`] a file, its line and the token in it that
    /// is wrong, [`Error::LongPolicy`] a file that says more than the kernel takes.
    pub fn from_policy_dir(directory: &Path) -> Result<Self> {
        let path = directory.join("plugin.policy");
        Self::new(&path, Policy::from_file(&path)?)
    }

    /// The same calls, where a violation is told of and goes on.
    pub fn logging(self) -> Self {
        Self { on_violation: OnViolation::Log, ..self }
    }

    /// What a violation leads to.
    pub fn on_violation(&self) -> OnViolation {
        self.on_violation
    }

    fn new(file: &Path, mut policy: Policy) -> Result<Self> {
        let key = random()?;
        add_keyed(&mut policy, key);
        implied::allow_all(&mut policy);
        let mut program = stop_parent::prologue().to_vec();
        program.extend(compile(&policy, NOTIFY));
        if program.len() > MAX_INSTRUCTIONS {
            return Err(Error::LongPolicy { file: file.to_owned(), instructions: program.len() });
        }
        Ok(Self { program, key, on_violation: OnViolation::Kill })
    }

    /// The program for where nobody can be told of violations, because another filter's listener is: the kernel kills the plugin, or
    /// notes the call in its log and makes it.
    pub(super) fn without_listener(&self) -> Vec<Instruction> {
        let violation = match self.on_violation {
            OnViolation::Kill => KILL,
            OnViolation::Log => LOG,
        };
        self.program.iter().map(|instruction| instruction.with_return(NOTIFY, violation)).collect()
    }

    /// All of it in bytes, for another process of this program.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let log = u64::from(self.on_violation == OnViolation::Log);
        let mut bytes = [self.key, log].as_bytes().to_vec();
        bytes.extend_from_slice(self.program.as_bytes());
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) made bytes of; `None` for other bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (key, rest) = u64::read_from_prefix(bytes).ok()?;
        let (log, mut rest) = u64::read_from_prefix(rest).ok()?;
        let on_violation = if log == 0 { OnViolation::Kill } else { OnViolation::Log };
        let mut program = Vec::new();
        while !rest.is_empty() {
            let (instruction, others) = Instruction::read_from_prefix(rest).ok()?;
            program.push(instruction);
            rest = others;
        }
        Some(Self { program, key, on_violation })
    }
}

/// What the built-in policy is called in errors.
const BUILTIN: &str = "the built-in plugin.policy";

fn builtin() -> Result<Policy> {
    Policy::from_text(BUILTIN.as_ref(), include_str!("plugin.policy"))
}

/// The calls that [`Installed`](super::Installed) makes under the filter, whatever the policy says of them.
///
/// Each takes fewer than six arguments, and the kernel shows the sixth to the filter all the same: so one that carries the
/// key in it is ours. The plugin never learns the key. It lies in the memory that its exec takes away.
const KEYED: [Sysno; 3] = [Sysno::execve, Sysno::sendmsg, Sysno::exit_group];

fn add_keyed(policy: &mut Policy, key: u64) {
    let carries_key = Comparison { argument: 5, operator: Operator::Equal, constant: key };
    for call in KEYED {
        let rule = policy.rules.entry(call).or_insert(Rule { allowed: vec![], otherwise: Otherwise::Violation });
        rule.allowed.push(vec![carries_key]);
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    // So few bytes come whole, or not at all.
    getrandom(&mut bytes, GetRandomFlags::empty())
        .and_then(|count| if count == bytes.len() { Ok(()) } else { Err(Errno::IO) })
        .map_err(Error::set_up("asking for random numbers"))?;
    Ok(u64::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::super::compile::{ALLOW, ERRNO};
    use super::super::interpreter::{Call, run};
    use super::*;

    fn answer(filter: &Filter, call: Sysno, arguments: [u64; 6]) -> u32 {
        run(&filter.program, &Call::new(call.id() as u32, arguments))
    }

    fn in_a_directory(policy: &str) -> Result<Filter> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("plugin.policy"), policy).unwrap();
        Filter::from_policy_dir(directory.path())
    }

    #[test]
    fn the_built_in_policy_refuses_what_its_comments_say() {
        let filter = Filter::builtin().unwrap();
        let one = |call, argument, value| {
            let mut arguments = [0; 6];
            arguments[argument] = value;
            answer(&filter, call, arguments)
        };
        for call in [
            Sysno::ptrace,
            Sysno::mount,
            Sysno::umount2,
            Sysno::pivot_root,
            Sysno::chroot,
            Sysno::unshare,
            Sysno::setns,
            Sysno::bpf,
            Sysno::io_uring_setup,
            Sysno::userfaultfd,
            Sysno::keyctl,
            Sysno::add_key,
            Sysno::request_key,
            Sysno::perf_event_open,
            Sysno::process_vm_readv,
            Sysno::process_vm_writev,
            Sysno::pidfd_getfd,
            Sysno::kexec_load,
            Sysno::init_module,
            Sysno::finit_module,
            Sysno::open_by_handle_at,
            Sysno::execve,
            Sysno::execveat,
            Sysno::connect,
            Sysno::bind,
            Sysno::mknod,
            Sysno::mknodat,
            Sysno::setuid,
            Sysno::capset,
            Sysno::reboot,
            Sysno::clock_settime,
            Sysno::modify_ldt,
            Sysno::iopl,
            Sysno::fsopen,
            Sysno::move_mount,
            Sysno::inotify_init,
            Sysno::inotify_init1,
            Sysno::inotify_add_watch,
            Sysno::fanotify_init,
            Sysno::fanotify_mark,
            Sysno::syncfs,
            Sysno::sync,
            Sysno::readahead,
        ] {
            assert_eq!(answer(&filter, call, [0; 6]), NOTIFY, "{call}");
        }
        assert_eq!(one(Sysno::ioctl, 1, libc::TCGETS), ALLOW);
        assert_eq!(one(Sysno::ioctl, 1, libc::TIOCSTI), NOTIFY);
        assert_eq!(one(Sysno::clone3, 0, 0), ERRNO | libc::ENOSYS as u32);
        assert_eq!(one(Sysno::clone, 0, libc::SIGCHLD as u64), ALLOW);
        // The flags of glibc's pthread_create.
        assert_eq!(one(Sysno::clone, 0, 0x3d_0f00), ALLOW);
        assert_eq!(one(Sysno::clone, 0, libc::CLONE_NEWUSER as u64), NOTIFY);
        assert_eq!(one(Sysno::clone, 0, libc::CLONE_NEWNET as u64 | 0x3d_0f00), NOTIFY);
        assert_eq!(one(Sysno::prlimit64, 2, 0), ALLOW);
        assert_eq!(one(Sysno::prlimit64, 2, 0x7000_0000), ERRNO | libc::EPERM as u32);
        assert_eq!(one(Sysno::prctl, 0, libc::PR_SET_NAME as u64), ALLOW);
        assert_eq!(one(Sysno::prctl, 0, libc::PR_SET_DUMPABLE as u64), ERRNO | libc::EINVAL as u32);
        assert_eq!(one(Sysno::socket, 0, libc::AF_UNIX as u64), ERRNO | libc::EACCES as u32);
        assert_eq!(answer(&filter, Sysno::seccomp, [1, 1, 0, 0, 0, 0]), ALLOW);
        assert_eq!(answer(&filter, Sysno::seccomp, [1, 8, 0, 0, 0, 0]), NOTIFY);
        assert_eq!(answer(&filter, Sysno::seccomp, [0; 6]), NOTIFY);
        assert_eq!(one(Sysno::setsid, 0, 0), ERRNO | libc::EPERM as u32);
        assert_eq!(one(Sysno::setpgid, 0, 0), ALLOW);
        let socket_option =
            |option: u64| answer(&filter, Sysno::setsockopt, [3, libc::SOL_SOCKET as u64, option, 0, 0, 0]);
        for option in
            [libc::SO_SNDBUF, libc::SO_PASSCRED, libc::SO_DETACH_FILTER, libc::SO_LOCK_FILTER, libc::SO_ZEROCOPY]
        {
            assert_eq!(socket_option(option as u64), ALLOW, "{option}");
        }
        for option in [libc::SO_ATTACH_FILTER, libc::SO_ATTACH_BPF, libc::SO_ATTACH_REUSEPORT_CBPF, 52] {
            for upper_half in [0, 1 << 32, u64::MAX << 32] {
                let refused = ERRNO | libc::EPERM as u32;
                assert_eq!(socket_option(upper_half | option as u64), refused, "{option}");
            }
        }
    }

    #[test]
    fn files_are_locked_and_synced_only_with_a_writable_mount() {
        let mount = |writable| Mount { source: "/a".into(), target: "/a".into(), writable };
        let with = |mounts: &[Mount]| Filter::builtin_for(mounts).unwrap();
        let locks =
            [libc::F_GETLK, libc::F_SETLK, libc::F_SETLKW, libc::F_OFD_GETLK, libc::F_OFD_SETLK, libc::F_OFD_SETLKW];
        let calls = [Sysno::flock, Sysno::fsync, Sysno::fdatasync, Sysno::sync_file_range, Sysno::fadvise64];
        for filter in [Filter::builtin().unwrap(), with(&[]), with(&[mount(false)])] {
            for lock in locks {
                assert_eq!(answer(&filter, Sysno::fcntl, [3, lock as u64, 0, 0, 0, 0]), ERRNO | libc::EINVAL as u32);
            }
            for call in calls {
                assert_eq!(answer(&filter, call, [3, 0, 0, 0, 0, 0]) & 0xffff_0000, ERRNO, "{call}");
            }
        }
        let filter = with(&[mount(false), mount(true)]);
        for lock in locks {
            assert_eq!(answer(&filter, Sysno::fcntl, [3, lock as u64, 0, 0, 0, 0]), ALLOW);
        }
        for call in calls {
            assert_eq!(answer(&filter, call, [3, 0, 0, 0, 0, 0]), ALLOW, "{call}");
        }
        for other in [libc::F_SETOWN, libc::F_SETLEASE, libc::F_NOTIFY] {
            assert_eq!(answer(&filter, Sysno::fcntl, [3, other as u64, 0, 0, 0, 0]), ERRNO | libc::EINVAL as u32);
        }
    }

    /// The kernel does not run the filter for a call that it allows whatever the arguments. These are made at every exit.
    #[test]
    fn the_calls_of_an_exit_are_allowed_whatever_their_arguments() {
        let policy = Policy::from_text(Path::new("plugin.policy"), include_str!("plugin.policy")).unwrap();
        for call in [Sysno::read, Sysno::write, Sysno::futex, Sysno::futex_waitv, Sysno::sched_yield] {
            assert_eq!(policy.rules.get(&call), Some(&Rule::always()), "{call}");
        }
    }

    #[test]
    fn only_with_the_key_are_its_installers_calls_let_through() {
        let filter = in_a_directory("read: 1\nsendmsg: return EPERM\nexit_group: 1").unwrap();
        for call in KEYED {
            assert_eq!(answer(&filter, call, [0, 0, 0, 0, 0, filter.key]), ALLOW, "{call}");
        }
        let wrong = [0, 0, 0, 0, 0, !filter.key];
        assert_eq!(answer(&filter, Sysno::execve, wrong), NOTIFY);
        assert_eq!(answer(&filter, Sysno::sendmsg, wrong), ERRNO | libc::EPERM as u32);
        assert_eq!(answer(&filter, Sysno::exit_group, wrong), ALLOW);
        assert_eq!(answer(&filter, Sysno::write, [0, 0, 0, 0, 0, filter.key]), NOTIFY);
        assert_ne!(Filter::builtin().unwrap().key, filter.key);
    }

    #[test]
    fn calls_made_by_the_kernel_are_allowed_unless_refused() {
        for filter in [Filter::builtin().unwrap(), in_a_directory("read: 1").unwrap()] {
            for call in [335, 336] {
                assert_eq!(run(&filter.program, &Call::new(call, [7; 6])), ALLOW);
            }
            assert_eq!(run(&filter.program, &Call::new(337, [0; 6])), NOTIFY);
        }
        let filter = in_a_directory("uretprobe: return EPERM").unwrap();
        assert_eq!(answer(&filter, Sysno::uretprobe, [0; 6]), ERRNO | libc::EPERM as u32);
    }

    #[test]
    fn what_rings_and_the_jail_need_is_allowed_unless_refused() {
        let filter = in_a_directory("read: 1\nioctl: arg1 == 7").unwrap();
        for call in [Sysno::futex, Sysno::sched_yield] {
            assert_eq!(answer(&filter, call, [1; 6]), ALLOW, "{call}");
        }
        for (request, done) in
            [(7, ALLOW), (0x5401, ALLOW), (0x802c_542a, ALLOW), (0xffff_ffff_802c_542a, ALLOW), (8, NOTIFY)]
        {
            assert_eq!(answer(&filter, Sysno::ioctl, [0, request, 0, 0, 0, 0]), done, "{request:#x}");
        }
        let filter =
            in_a_directory("futex: arg1 == 0; return EACCES\nioctl: return ENOTTY\nsched_yield: return EPERM").unwrap();
        assert_eq!(answer(&filter, Sysno::futex, [1; 6]), ERRNO | libc::EACCES as u32);
        assert_eq!(answer(&filter, Sysno::ioctl, [0, 0x5401, 0, 0, 0, 0]), ERRNO | libc::ENOTTY as u32);
        assert_eq!(answer(&filter, Sysno::sched_yield, [0; 6]), ERRNO | libc::EPERM as u32);
    }

    #[test]
    fn stopping_the_parent_succeeds_and_is_not_made() {
        let filters = ["kill: 1", "kill: return EACCES", "read: 1"].map(|policy| in_a_directory(policy).unwrap());
        for (filter, otherwise) in filters.iter().zip([ALLOW, ERRNO | libc::EACCES as u32, NOTIFY]) {
            let kill = |pid: i64, signal: i32| answer(filter, Sysno::kill, [pid as u64, signal as u64, 7, 7, 7, 7]);
            for (pid, signal, done) in [
                (1, libc::SIGSTOP, ERRNO),
                (1, libc::SIGCONT, ERRNO),
                (1 << 32 | 1, libc::SIGSTOP, ERRNO),
                (1, libc::SIGTERM, otherwise),
                (1, 0, otherwise),
                (2, libc::SIGSTOP, otherwise),
                (0, libc::SIGCONT, otherwise),
                (-1, libc::SIGSTOP, otherwise),
            ] {
                assert_eq!(kill(pid, signal), done, "{pid}, {signal}");
            }
            let int_0x80 = Call { architecture: 0x4000_0003, ..Call::new(62, [1, 19, 0, 0, 0, 0]) };
            assert_eq!(run(&filter.program, &int_0x80), NOTIFY);
            assert_eq!(answer(filter, Sysno::tgkill, [1, 1, 19, 0, 0, 0]), NOTIFY);
        }
    }

    #[test]
    fn without_a_listener_only_violations_change() {
        let policy = "read: 1\nwrite: return EPERM\nioctl: arg1 == 0x7fc00000";
        for (filter, violation) in
            [(in_a_directory(policy).unwrap(), KILL), (in_a_directory(policy).unwrap().logging(), LOG)]
        {
            let program = filter.without_listener();
            let answer = |call: Sysno, argument| run(&program, &Call::new(call.id() as u32, [0, argument, 0, 0, 0, 0]));
            assert_eq!(answer(Sysno::read, 0), ALLOW);
            assert_eq!(answer(Sysno::write, 0), ERRNO | libc::EPERM as u32);
            // An argument that looks like an answer.
            assert_eq!((answer(Sysno::ioctl, 0x7fc0_0000), answer(Sysno::ioctl, 1)), (ALLOW, violation));
            assert_eq!(answer(Sysno::mount, 0), violation);
        }
    }

    #[test]
    fn bytes_hold_all_of_a_filter() {
        for filter in [Filter::builtin().unwrap(), in_a_directory("read: 1").unwrap().logging()] {
            assert_eq!(Filter::from_bytes(&filter.to_bytes()), Some(filter));
        }
        assert_eq!(Filter::from_bytes(&[0; 15]), None);
        assert_eq!(Filter::from_bytes(&[0; 20]), None);
    }

    #[test]
    fn a_policy_longer_than_the_kernel_takes_is_refused() {
        let alternatives: Vec<_> = (0..2000).map(|n| format!("arg1 == {n}")).collect();
        let error = in_a_directory(&format!("ioctl: {}", alternatives.join(" || "))).unwrap_err();
        assert!(matches!(error, Error::LongPolicy { instructions: 4097.., .. }), "{error}");
    }
}
