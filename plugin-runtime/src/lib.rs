//! Plugin processes: starting them, their connections, carrying exits, and how they end.
//!
//! [`run`] is all there is to call: it makes a VM, starts a plugin over a socket, serves what the plugin asks for, and
//! returns when the plugin has ended.
//!
//! Inside, one supervisor thread (the caller's) waits on everything that is not an exit: the plugin's main sockets, its
//! end, its standard error, signals, and the machine's notices. Exits go from each vCPU's thread straight to the plugin,
//! over a pair of pipes. Everything that comes from the plugin is checked as if it were hostile.
//!
//! # A whole program
//!
//! A program that runs jailed plugins calls [`jail::helper_main`] first of all in its `main`. [`run`] executes that program once
//! more to make a jail; without the call it would begin to run VMs there, so [`run`] refuses that.
//!
//! ```standalone_crate
#![doc = include_str!("../examples/two_vms.rs")]
//! ```

mod advice;
mod backoff;
mod children;
mod confine;
mod connection;
mod descriptor_limit;
mod end;
mod errno;
mod error;
mod follow;
mod fpu_bytes;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod hold;
pub mod jail;
mod log_budget;
mod main_messages;
mod main_requests;
mod memory_quota;
mod objects;
mod polling;
mod process;
mod quota;
mod refusal;
mod request_budget;
mod seccomp;
mod shutdown_event;
mod signals;
mod start_error;
mod startup_watch;
mod stderr_log;
mod stderr_tail;
mod supervisor;
mod tap;
mod text_file;
mod transport;
mod turns;
mod unread;
mod unread_fds;
mod vm_state;
mod wire;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use error::{Error, Result};
use hypervisor::Hypervisor;
pub use jail::Sandbox;
pub use seccomp::{Filter, OnViolation, Violation};
pub use tap::{MacAddress, Tap};
#[doc(hidden)]
pub use text_file::read_text;
pub use vmm_core::{Cgroup, Culprit, StopReason, Unclaimed};

/// The program that is to be a VM's plugin.
#[derive(Clone, Debug)]
pub struct PluginCommand {
    /// The executable, as a path: it is not looked for elsewhere.
    pub path: PathBuf,
    /// Its arguments, each handed over as it is, after the path.
    pub args: Vec<OsString>,
}

impl PluginCommand {
    /// What the plugin is called in errors and in the log: its file's name.
    pub fn name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// How exits reach a plugin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Over rings in shared memory where the plugin's library knows them, else over pipes.
    #[default]
    Auto,
    /// Over pipes.
    Pipe,
    /// Over rings: a plugin that asks for pipes is refused.
    Ring,
}

/// What a VM is run with.
#[derive(Debug)]
pub struct Config {
    /// How many vCPUs it has.
    pub vcpus: NonZeroU32,
    /// How long the plugin may take to answer an access; `None` for as long as it likes.
    pub exit_timeout: Option<Duration>,
    /// What each vCPU's thread joins before its vCPU runs.
    pub vcpu_cgroup: Option<Arc<Cgroup>>,
    /// What becomes of the guest's accesses to what the plugin has not reserved.
    pub unclaimed: Unclaimed,
    /// How exits reach the plugin.
    pub transport: Transport,
    /// How long, in microseconds, either side of a ring looks before it sleeps; `None` for what suits the processors there are.
    pub poll_us: Option<u32>,
    /// How many bytes of guest memory the plugin may map in all; `None` for as many as the host has RAM. The kernel needs some for
    /// each page of it, touched or not.
    pub max_memory: Option<u64>,
    /// The network device that the plugin gets when it asks for one.
    pub tap: Option<Tap>,
    /// What keeps the plugin from all that it was not given.
    pub sandbox: Sandbox,
    /// Whether the calling thread, once the plugin runs, gives up all capabilities and every system call that a VMM does
    /// not need, for good: also after the run. The run's threads have what it has.
    pub confine: bool,
}

impl Config {
    /// A VM with `vcpus` vCPUs whose plugin is kept by `sandbox`, and else nothing that need be asked for.
    pub fn new(vcpus: NonZeroU32, sandbox: Sandbox) -> Self {
        Self {
            vcpus,
            exit_timeout: None,
            vcpu_cgroup: None,
            unclaimed: Unclaimed::default(),
            transport: Transport::default(),
            poll_us: None,
            max_memory: None,
            tap: None,
            sandbox,
            confine: false,
        }
    }
}

/// Runs a VM on `hypervisor` until its plugin has ended.
///
/// VMs that run side by side in a process, each on a thread of its own, do not disturb each other. A signal ends them all.
///
/// This process's soft limit of descriptors is raised to the hard one; the plugin has it as it was.
///
/// SIGINT, SIGTERM and, unless it is ignored, SIGHUP, for which handlers are set while it runs, end the VM: the plugin has a
/// second to end by itself, is disconnected, has another second, and is killed.
///
/// # Errors
///
/// The first thing that went wrong, even if cleaning up failed later. What the guest fails with, or a signal, is no error where
/// the plugin exits with 0 before it is disconnected. [`Error::culprit`] returns whose failure it was.
///
/// [`Error::InHelper`] where the calling process is the helper that is to make a plugin's jail: `main` has not called
/// [`jail::helper_main`].
///
/// # Examples
///
/// A whole program:
///
/// ```no_run
#[doc = include_str!("../examples/two_vms.rs")]
/// ```
pub fn run(hypervisor: &dyn Hypervisor, plugin: &PluginCommand, config: Config) -> Result<()> {
    jail::refuse_in_helper()?;
    supervisor::Supervisor::new(hypervisor, plugin, config)?.run()
}
