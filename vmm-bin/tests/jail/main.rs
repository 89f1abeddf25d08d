//! The jail: what a plugin tries to get out of it, how its end is told, and what it is given.
//!
//! Every test runs as root, whose plugin is user 65534, and as an ordinary user, that same one where the tests are root's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails its test")]

#[path = "../common/mod.rs"]
mod common;

mod confined;
mod documented;
mod ends;
mod files;
mod given;
mod kernel;
mod kit;
mod limits;
mod mounts;
mod network;
mod processes;
mod refused;
