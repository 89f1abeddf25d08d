//! Which system calls a process may make.
//!
//! A [`Filter`] is made from a policy: the built-in one, `plugin.policy` beside this file, or the user's. It is plain
//! data, so that it can be made where allocating is allowed and handed to the process that installs it. A call that it
//! does not allow is a violation: the caller is held in the kernel, and the holder of the [`Listener`] learns of it.

mod bpf;
mod compile;
mod constants;
mod filter;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
#[cfg(test)]
mod handed;
mod implied;
mod install;
#[cfg(any(test, feature = "fuzzing"))]
mod interpreter;
mod listener;
mod parse;
mod policy;
#[cfg(test)]
mod process_tests;
mod rule;
mod stop_parent;
#[cfg(test)]
mod traced;
mod vmm;

pub use filter::{Filter, OnViolation};
#[cfg(any(test, feature = "fuzzing"))]
pub use fuzzing::policy;
pub(crate) use install::{CStrings, Installed};
pub(crate) use listener::Listener;
pub use listener::Violation;
pub(crate) use vmm::confine_vmm;
