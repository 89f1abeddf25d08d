//! A plugin whose process is the test's own program, and which the test controls.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, socket_with,
};

use crate::raw::{MainSocket, Relay, obey};
use crate::wait;

/// A plugin that a VMM can start. Its process hands its main socket over to the test, which says everything that a plugin
/// says, by [`MainSocket`](crate::raw::MainSocket) or by a library for plugins.
///
/// The process is this test program, executed once more, so the program needs a test by which it is the plugin, and which does
/// nothing else:
///
/// ```no_run
/// # /* rustdoc runs functions, not tests:
/// #[test]
/// # */
/// fn the_plugin() {
///     test_utils::fake::be_the_plugin();
/// }
/// ```
#[derive(Debug)]
pub struct Plugin {
    listener: OwnedFd,
    test: String,
    address: String,
}

impl Plugin {
    /// A plugin that is the test `test`, its path within the program.
    ///
    /// # Panics
    ///
    /// If no socket can be had; or if this process is a plugin itself: then the test `test` does not begin with
    /// [`be_the_plugin`], and would start plugins without end.
    #[must_use]
    pub fn new(test: &str) -> Self {
        assert!(
            !is_a_plugin(),
            "{test} was started as the plugin and must call test_utils::fake::be_the_plugin() first"
        );
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let address = format!("outboard-fake-plugin-{}-{next}", process::id());
        let listener = socket().expect("socket");
        bind(&listener, &name(&address)).expect("bind");
        set_socket_passcred(&listener, true).expect("SO_PASSCRED");
        listen(&listener, 1).expect("listen");
        Self { listener, test: test.into(), address }
    }

    /// The executable that a VMM is to start.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        "/bin/sh".into()
    }

    /// Its arguments.
    ///
    /// # Panics
    ///
    /// If this program does not know its own file.
    #[must_use]
    pub fn args(&self) -> Vec<OsString> {
        // Without the lines that every test program begins with.
        let script = "exec \"$0\" \"$@\" >/dev/null".into();
        let program = std::env::current_exe().expect("this program's file").into();
        // Behind the test's name, the address is one more name, of a test that is not there.
        let names = [&self.test, "--exact", "--nocapture", &self.address].map(Into::into);
        ["-c".into(), script, program].into_iter().chain(names).collect()
    }

    /// Waits until the VMM has started it: its process, and its main socket. `None` where `give_up` says so first. A process
    /// that ends before it hands its socket over does not count.
    ///
    /// # Panics
    ///
    /// If neither happens for [`LIMIT`](wait::LIMIT).
    #[must_use]
    pub fn accept(&self, give_up: impl Fn() -> bool) -> Option<(Relay, MainSocket)> {
        let short = std::time::Duration::from_millis(10);
        let mut plugin = None;
        wait::until("the fake plugin is started", || {
            if crate::raw::readable_within(&self.listener, short) {
                let control = accept_with(&self.listener, SocketFlags::CLOEXEC).expect("accept");
                plugin = Relay::accept(control);
            }
            plugin.is_some() || give_up()
        });
        plugin
    }
}

/// Is the plugin, where a VMM has started this process; else it returns at once.
///
/// # Panics
///
/// If the test cannot be reached.
pub fn be_the_plugin() {
    if !is_a_plugin() {
        return;
    }
    let address = std::env::args().next_back().expect("the test's address");
    let control = socket().expect("socket");
    connect(&control, &name(&address)).expect("the test that waits for this plugin");
    process::exit(obey(&control).into());
}

/// Whether a VMM has started this process.
fn is_a_plugin() -> bool {
    std::env::var_os("CROSVM_SOCKET").is_some()
}

fn socket() -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

fn name(address: &str) -> SocketAddrUnix {
    SocketAddrUnix::new_abstract_name(address.as_bytes()).expect("a short name")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As one would be whose test does not call [`be_the_plugin`].
    #[test]
    fn a_plugin_that_would_start_plugins_without_end_fails() {
        let test = "fake::plugin::tests::a_process_that_ends_before_it_hands_its_socket_over_is_no_plugin";
        let this = std::env::current_exe().unwrap();
        let ran = process::Command::new(this).args(["--exact", test]).env("CROSVM_SOCKET", "99").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(!ran.status.success() && said.contains("must call test_utils::fake::be_the_plugin() first"), "{ran:?}");
    }

    #[test]
    fn a_process_that_ends_before_it_hands_its_socket_over_is_no_plugin() {
        let plugin = Plugin::new("none");
        let process = socket().unwrap();
        connect(&process, &name(&plugin.address)).unwrap();
        drop(process);
        assert!(plugin.accept(|| true).is_none());
    }
}
