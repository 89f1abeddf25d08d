//! The jail: what a plugin tries to get out of it, how its end is told, and what it is given.
//!
//! Every test runs on each backend, and on each as root, whose plugins have users of their own, and as an ordinary user, 65534
//! where the tests are root's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails its test")]

#[path = "../common/mod.rs"]
mod common;

mod confined;
mod counts;
mod ends;
mod files;
mod given;
mod hard_limits;
mod inherited;
mod kernel;
mod kit;
mod limits;
mod mounts;
mod network;
mod own_ids;
mod processes;
mod refused;
