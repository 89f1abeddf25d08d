//! Runs of the command `outboard`, each with a hard limit, after each of which no process may be left.

#![allow(dead_code, unused_macros, unused_imports, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail like tests")]

mod busy;
mod counters;
mod driven;
mod ended;
pub(crate) mod leftover;
mod resources;
mod running;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub(crate) use busy::Span;
pub(crate) use counters::Counters;
pub(crate) use driven::{Driven, RAM_ID};
pub(crate) use ended::Ended;
pub(crate) use resources::Resources;
pub(crate) use running::{Running, kill, only_child};
use rustix::process::{Resource, Rlimit, setrlimit};
use tempfile::NamedTempFile;
use test_utils::guest::Program;

/// Longer than anything here takes on a loaded machine. A run that takes longer is killed and fails its test.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Whether `.ci/trace-vmm-syscalls` runs the tests, where everything is many times slower. What matters then is what is done,
/// not how soon.
pub(crate) fn is_traced() -> bool {
    std::env::var_os("OUTBOARD_TRACED").is_some()
}

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Kvm,
    Mock,
}

impl Backend {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Mock => "mock",
        }
    }
}

/// Makes a `#[test]` of each function, a `fn(Backend)`, for each backend; the one for KVM tells of its skip where there is
/// no KVM.
macro_rules! on_each_backend {
    ($($test:ident)*) => {
        mod mock {
            $(#[test] fn $test() { super::$test($crate::common::Backend::Mock); })*
        }
        mod kvm {
            $(#[test] fn $test() {
                let name = concat!(module_path!(), "::", stringify!($test));
                if test_utils::kvm::kvm_or_skip(name).is_some() {
                    super::$test($crate::common::Backend::Kvm);
                }
            })*
        }
    };
}
pub(crate) use on_each_backend;

/// A guest that writes 0x41 to port 0x10 and then reads port 0x11, for ever.
pub(crate) fn talker() -> Program {
    Program::new().mov(0x41).output(0x10, 1).input(0x11, 1).forever()
}

/// The steps of a probe up to a guest that is about to run its first instruction.
pub(crate) const BOOTED: &str = "connect reserve memory event vcpus start wait=init boot";

/// An example plugin, built with the command.
pub(crate) fn example(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_outboard")).with_file_name("examples").join(name);
    assert!(path.exists(), "{} is not there: build with --examples", path.display());
    path
}

/// A call of `outboard` to be made.
#[derive(Debug)]
pub(crate) struct Outboard {
    command: Command,
    script: Option<NamedTempFile>,
    stdin: Stdio,
    /// Who gets its standard error; `None` for the test.
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
}

impl Outboard {
    pub(crate) fn new(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        Self::of_program(Path::new(env!("CARGO_BIN_EXE_outboard")), args)
    }

    /// A copy of the command's program.
    pub(crate) fn of_program(program: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let mut command = Command::new(program);
        command.args(args).env_remove("OUTBOARD_LOG").env_remove("NO_COLOR");
        let outboard = Self { command, script: None, stdin: Stdio::null(), stdout: None, stderr: None };
        outboard.before(hear_hangups)
    }

    /// Runs `program` on `backend` with a probe whose steps `steps` are, separated by spaces. The step `memory` becomes
    /// one that holds the program's code.
    pub(crate) fn probe(backend: Backend, program: &Program, steps: &str) -> Self {
        Self::probe_with(backend, program, &[], steps)
    }

    /// [`probe`](Self::probe) with more options of `outboard run`.
    pub(crate) fn probe_with(backend: Backend, program: &Program, options: &[&str], steps: &str) -> Self {
        let memory = format!("memory={}", hex(&program.code()));
        let steps = steps.split_whitespace().map(|step| if step == "memory" { &memory } else { step });
        Self::plugin(backend, options, "probe", steps)
    }

    /// Runs an example plugin on `backend`.
    pub(crate) fn plugin(
        backend: Backend,
        options: &[&str],
        plugin: &str,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Self {
        Self::executable(backend, options, &example(plugin), args)
    }

    /// [`plugin`](Self::plugin) with one that is no example.
    pub(crate) fn executable(
        backend: Backend,
        options: &[&str],
        plugin: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Self {
        let mut outboard = Self::new(["run", "--hypervisor", backend.name(), "--plugin"]);
        outboard.command.arg(plugin).args(options);
        // In its jail it prints to the test.
        if !options.contains(&"--disable-sandbox") {
            outboard.command.arg("--plugin-stdio");
        }
        outboard.command.arg("--").args(args);
        outboard
    }

    /// [`executable`](Self::executable) on the mock, whose vCPUs follow a script that no program stands for.
    pub(crate) fn scripted(text: &str, plugin: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        let mut script = NamedTempFile::new().unwrap();
        script.write_all(text.as_bytes()).unwrap();
        let path = script.path().display().to_string();
        let outboard = Self::executable(Backend::Mock, &["--script", &path], plugin, args);
        Self { script: Some(script), ..outboard }
    }

    /// Whether the plugin has a jail.
    fn is_jailed(&self) -> bool {
        !self.command.get_args().any(|arg| arg == "--disable-sandbox")
    }

    /// Puts a variable into its environment.
    pub(crate) fn env(mut self, variable: &str, value: &str) -> Self {
        self.command.env(variable, value);
        self
    }

    /// Takes a variable out of its environment.
    pub(crate) fn without_variable(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs it as another user.
    pub(crate) fn run_by(mut self, user: u32) -> Self {
        self.command.uid(user).gid(user);
        self
    }

    /// Runs it in a user namespace in which no other can be made.
    #[allow(unsafe_code, reason = "what is done between fork and exec must be async-signal-safe")]
    pub(crate) fn where_no_namespace_can_be_made(mut self) -> Self {
        // SAFETY: system calls only; the strings are constants.
        unsafe { self.command.pre_exec(forbid_namespaces) };
        self
    }

    /// Calls `prepare` in its process between fork and exec, where only async-signal-safe calls are allowed.
    #[allow(unsafe_code, reason = "what is done between fork and exec must be async-signal-safe")]
    pub(crate) fn before(mut self, prepare: impl Fn() -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        // SAFETY: the callers hand over system calls only.
        unsafe { self.command.pre_exec(prepare) };
        self
    }

    /// Lets it, and whatever it starts, have no more than `most` of something.
    #[allow(unsafe_code, reason = "what is done between fork and exec must be async-signal-safe")]
    pub(crate) fn limited(mut self, resource: Resource, most: u64) -> Self {
        let limit = Rlimit { current: Some(most), maximum: Some(most) };
        // SAFETY: one system call.
        unsafe { self.command.pre_exec(move || Ok(setrlimit(resource, limit)?)) };
        self
    }

    /// Runs it in a control group of version 1, whose directory is `group`.
    #[allow(unsafe_code, reason = "what is done between fork and exec must be async-signal-safe")]
    pub(crate) fn in_group(mut self, group: &Path) -> Self {
        let tasks = std::fs::File::options().write(true).open(group.join("tasks")).unwrap();
        // SAFETY: one system call; 0 is who writes.
        unsafe { self.command.pre_exec(move || Ok(rustix::io::write(&tasks, b"0").map(drop)?)) };
        self
    }

    /// Gives it `stdin` as standard input, which is empty else.
    pub(crate) fn stdin(self, stdin: impl Into<Stdio>) -> Self {
        Self { stdin: stdin.into(), ..self }
    }

    /// Gives it `stdout` as standard output, of which the test sees nothing then.
    pub(crate) fn stdout(self, stdout: impl Into<Stdio>) -> Self {
        Self { stdout: Some(stdout.into()), ..self }
    }

    /// Gives it `stderr` as standard error, of which the test sees nothing then.
    pub(crate) fn stderr(self, stderr: impl Into<Stdio>) -> Self {
        Self { stderr: Some(stderr.into()), ..self }
    }

    /// Starts it.
    pub(crate) fn start(self) -> Running {
        Running::start(self)
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Ended {
        self.start().end()
    }
}

/// The parent of the tests may ignore hangups, by nohup(1).
fn hear_hangups() -> std::io::Result<()> {
    // SAFETY: the default action runs no code of this program's.
    #[allow(unsafe_code, reason = "rustix sets no signal's action")]
    unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_DFL);
    }
    Ok(())
}

fn forbid_namespaces() -> std::io::Result<()> {
    // SAFETY: a new user namespace shares nothing of Rust's.
    #[allow(unsafe_code, reason = "as above")]
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER)?;
    }
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let limit = rustix::fs::open(c"/proc/sys/user/max_user_namespaces", flags, rustix::fs::Mode::empty())?;
    rustix::io::write(&limit, b"0")?;
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Calls `check` with each item, on a few threads.
pub(crate) fn in_parallel<T: Send>(items: impl IntoIterator<Item = T, IntoIter: Send>, check: impl Fn(T) + Sync) {
    let items = std::sync::Mutex::new(items.into_iter());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let item = items.lock().unwrap().next();
                    match item {
                        Some(item) => check(item),
                        None => return,
                    }
                }
            });
        }
    });
}
