//! The jail: a plugin can do nothing that it was not given.
//!
//! It is made by three processes, each of which can do less than the one before:
//!
//! * the **helper**, which the VMM starts: the VMM's own program once more, so that nothing but system calls happens
//!   between fork and exec in a process that has threads. It looks up what the plugin may see, makes the namespaces, says
//!   who is who in them, and exits;
//! * the **init**, the first process in the namespaces and a child of the VMM's. It makes the plugin's file system, gives up
//!   all it could do, starts the plugin, waits for it, and tells the VMM how it ended. With init all else in the
//!   namespaces ends, and init ends with the VMM;
//! * the **plugin**, which confines itself by landlock and seccomp as the last thing before it becomes the plugin.
//!
//! What goes wrong is told to the VMM over a socket, as a [`Fault`] that says which part it was, why, and what to do. A part
//! that the kernel refuses fails the run; landlock alone is done without where the kernel is too old for it.

mod config;
mod fault;
mod helper;
mod ids;
mod init;
mod landlock;
mod layout;
mod limits;
mod mount_points;
mod own_id;
mod owners;
mod plugin;
mod priority;
mod privileges;
mod reports;
mod root;
mod setup;
mod start;
mod trees;
mod ucounts;
mod user_limits;

pub use config::{GidMap, Helper, IdRange, JailConfig, Limits, Mount, Sandbox, User};
pub use fault::{Fault, Part};
pub use helper::helper_main;
pub(crate) use helper::refuse_in_helper;
pub(crate) use init::HELPER_IS_GONE;
pub(crate) use own_id::OwnId;
pub(crate) use reports::{Report, Reports};
pub(crate) use start::{jail_error, start};
