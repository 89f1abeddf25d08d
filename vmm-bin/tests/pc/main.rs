//! The example `pc`: each of its devices, and SeaBIOS and Linux on it, where those are to be had.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails its test")]

mod boot;
#[path = "../common/mod.rs"]
mod common;
/// Their tests are in them.
#[allow(dead_code, reason = "what is not tested alone is used by the example")]
#[path = "../../../examples/pc/devices/mod.rs"]
mod devices;
mod linux;
/// Its tests are in it.
#[allow(dead_code, reason = "what is not tested alone is used by the example")]
#[path = "../../../examples/pc/linux/mod.rs"]
mod loader;
mod refusals;
mod seabios;
mod shown;
