//! What Outboard's tests share.
//!
//! * [`guest`]: guest programs that are machine code and mock script in one;
//! * [`kvm`]: KVM where it is there, and a skip that is told by name where it is not;
//! * [`memory`]: sealed memfds;
//! * [`conformance`]: what any backend must do, run on mock and KVM alike;
//! * [`fuzz`]: what the fuzz targets do with any bytes, and the saved bytes as tests;
//! * [`differential`]: generated programs, on which two backends must agree;
//! * [`raw`]: a client of the plugin protocol that shares no code with this project's library;
//! * [`wait`]: waiting for something with a limit that fails loudly.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test's helper fails the test by panicking")]

pub mod conformance;
pub mod differential;
pub mod fuzz;
pub mod guest;
pub mod kvm;
pub mod memory;
pub mod raw;
pub mod wait;
