//! Running the escape kit's plugin, and seeing that the jail held.

use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;
use tempfile::TempDir;

use crate::common::{Backend, Ended, Outboard, example, leftover};

/// Who runs the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Root,
    /// The user of the tests, or nobody where that is root.
    Ordinary,
}

/// Makes a `#[test]` of each function, a `fn(&Host)`, for each backend as root and as an ordinary user. Those for KVM tell
/// of their skip where there is none, those for root where the tests are not root's.
macro_rules! in_each_setting {
    ($($test:ident)*) => {
        crate::kit::in_each_setting! { @on mock Mock: $($test)* }
        crate::kit::in_each_setting! { @on kvm Kvm: $($test)* }
    };
    (@on $module:ident $backend:ident: $($test:ident)*) => {
        mod $module {
            crate::kit::in_each_setting! { @by as_root Root $backend: $($test)* }
            crate::kit::in_each_setting! { @by as_an_ordinary_user Ordinary $backend: $($test)* }
        }
    };
    (@by $module:ident $user:ident $backend:ident: $($test:ident)*) => {
        mod $module {
            $(#[test] fn $test() {
                let name = concat!(module_path!(), "::", stringify!($test));
                let (backend, user) = (crate::common::Backend::$backend, crate::kit::User::$user);
                if let Some(host) = crate::kit::Host::or_skip(name, backend, user) {
                    super::super::$test(&host);
                }
            })*
        }
    };
}
pub(crate) use in_each_setting;

/// What [`Host`] keeps secret.
pub(crate) const SECRET: &str = "secret";

/// Nobody, as whom an ordinary user's VMM runs where the tests are root's.
pub(crate) const NOBODY: u32 = 65534;

/// A directory of the host's, which the jail's user may read and write.
pub(crate) struct Host {
    pub(crate) backend: Backend,
    /// Who runs its VMs.
    pub(crate) user: User,
    /// The device that the user opens in place of `/dev/kvm`.
    kvm_device: Option<PathBuf>,
    directory: TempDir,
}

impl Host {
    /// One whose VMs `user` runs on `backend`; `None` after the test `name` was told of as skipped.
    pub(crate) fn or_skip(name: &str, backend: Backend, user: User) -> Option<Self> {
        if user == User::Root && !geteuid().is_root() {
            test_utils::kvm::skipped(name, &"the tests are not root's");
            return None;
        }
        let there = backend == Backend::Mock || test_utils::kvm::kvm_or_skip(name).is_some();
        there.then(|| Self::new(backend, user))
    }

    /// It has a file `secret`, a directory `given` with a file `given`, and an empty one `writable`.
    fn new(backend: Backend, user: User) -> Self {
        let mut host = Self { backend, user, kvm_device: None, directory: TempDir::new().unwrap() };
        for name in ["", "given", "writable"] {
            let directory = host.path(name);
            fs::create_dir_all(&directory).unwrap();
            fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        }
        for (name, text) in [("secret", SECRET), ("given/given", "given")] {
            fs::write(host.path(name), text).unwrap();
            fs::set_permissions(host.path(name), Permissions::from_mode(0o666)).unwrap();
        }
        if backend == Backend::Kvm && user == User::Ordinary && geteuid().is_root() {
            host.kvm_device = Some(host.make_kvm_device());
        }
        host
    }

    /// `/dev/kvm` once more, for everyone.
    fn make_kvm_device(&self) -> PathBuf {
        let path = self.path("kvm");
        let kind = rustix::fs::FileType::CharacterDevice;
        let number = fs::metadata("/dev/kvm").unwrap().rdev();
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::RWXU, number).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The path as an argument.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A call of `outboard run` as the user.
    pub(crate) fn run(&self, options: &[&str], plugin: &str, args: &[&str]) -> Outboard {
        let (program, plugin) =
            (self.reachable(Path::new(env!("CARGO_BIN_EXE_outboard"))), self.reachable(&example(plugin)));
        self.run_program(&program, &plugin, options, args)
    }

    /// The same for a plugin that is no example.
    pub(crate) fn run_plugin(&self, plugin: &Path, options: &[&str], args: &[&str]) -> Outboard {
        self.run_program(&self.reachable(Path::new(env!("CARGO_BIN_EXE_outboard"))), plugin, options, args)
    }

    /// The same for a C program that tells what it is.
    pub(crate) fn inspect(&self, options: &[&str]) -> Outboard {
        let plugin = self.compiled("inspect", include_str!("inspect.c"), &[]);
        let options: Vec<_> = ["--plugin-stdio"].iter().chain(options).copied().collect();
        self.run_plugin(&plugin, &options, &[])
    }

    fn run_program(&self, program: &Path, plugin: &Path, options: &[&str], args: &[&str]) -> Outboard {
        let plugin = plugin.to_str().unwrap();
        let call = ["run", "--hypervisor", self.backend.name(), "--plugin", plugin].into_iter();
        let device = self.kvm_device.iter().flat_map(|path| ["--kvm-device", path.to_str().unwrap()]);
        let call = call.chain(device).chain(options.iter().copied()).chain(["--"]).chain(args.iter().copied());
        // What runs tests may name directories there, which the plugin then would be given.
        let outboard = Outboard::of_program(program, call).without_variable("LD_LIBRARY_PATH");
        if self.user == User::Ordinary && geteuid().is_root() { outboard.run_by(NOBODY) } else { outboard }
    }

    /// A program that was built from C, as anyone would.
    pub(crate) fn compiled(&self, name: &str, source: &str, options: &[&str]) -> PathBuf {
        let (file, program) = (self.path(&format!("{name}.c")), self.path(name));
        fs::write(&file, source).unwrap();
        let built =
            leftover::output(Command::new("cc").arg("-o").arg(&program).arg(&file).args(options)).unwrap().status;
        assert!(built.success());
        program
    }

    /// The file, or a copy where not everyone can get at it.
    fn reachable(&self, file: &Path) -> PathBuf {
        let searchable = |directory: &Path| fs::metadata(directory).unwrap().mode() & 0o1 != 0;
        if self.user == User::Root || !geteuid().is_root() || file.ancestors().skip(1).all(searchable) {
            return file.to_owned();
        }
        let copy = self.path(file.file_name().unwrap().to_str().unwrap());
        if !copy.exists() {
            fs::copy(file, &copy).unwrap();
        }
        copy
    }

    /// An attempt of the escape kit's.
    pub(crate) fn attempt(&self, name: &str, args: &[&str]) -> Attempt<'_> {
        let args = [name].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        Attempt { host: self, args, options: Vec::new(), stdin: Box::new(|| None), without_filter: true }
    }

    /// Nothing of it was touched.
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(fs::read_to_string(self.path("secret")).unwrap(), SECRET);
        assert_eq!(fs::read_to_string(self.path("given/given")).unwrap(), "given");
        assert_eq!(fs::read_dir(self.path("given")).unwrap().count(), 1);
        assert!(!self.path("planted").exists());
    }
}

/// Something that the escape kit's plugin is to try.
pub(crate) struct Attempt<'h> {
    host: &'h Host,
    args: Vec<String>,
    options: Vec<String>,
    stdin: Box<dyn Fn() -> Option<OwnedFd>>,
    without_filter: bool,
}

impl Attempt<'_> {
    pub(crate) fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    pub(crate) fn with_stdin(mut self, stdin: impl Fn() -> OwnedFd + 'static) -> Self {
        self.stdin = Box::new(move || Some(stdin()));
        self.with(&["--plugin-stdio"])
    }

    /// It is the system call filter alone that keeps the plugin from it.
    pub(crate) fn held_by_the_filter(mut self) {
        self.without_filter = false;
        self.held();
    }

    /// Sees that the jail holds: with the system call filter, which may end the plugin at its first try, and with one that
    /// lets everything through, so that all else must.
    pub(crate) fn held(self) {
        let ended = self.run(&[]);
        if ended.code == Some(0) {
            ended.assert_success();
        } else {
            ended.assert_failure(&["escape", "system call", "seccomp policy does not allow"]);
        }
        assert_eq!(ended.logged(&["ESCAPED"]), 0, "{ended:#?}");
        self.host.assert_untouched();
        if self.without_filter {
            let ended = self.run(&["--seccomp-log"]);
            ended.assert_success();
            self.host.assert_untouched();
        }
    }

    fn run(&self, more: &[&str]) -> Ended {
        let options: Vec<_> = self.options.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let args: Vec<_> = self.args.iter().map(String::as_str).collect();
        let outboard = self.host.run(&options, "escape", &args);
        let outboard = match (self.stdin)() {
            Some(stdin) => outboard.stdin(stdin),
            None => outboard,
        };
        let ended = outboard.run();
        ended.assert_no_panic();
        ended
    }
}
