//! The example `pc`: each of its devices, and SeaBIOS on it, where that is installed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails its test")]

mod boot;
#[path = "../common/mod.rs"]
mod common;
/// Their tests are in them.
#[allow(dead_code, reason = "what is not tested alone is used by the example")]
#[path = "../../../examples/pc/devices/mod.rs"]
mod devices;
mod linux;
mod refusals;
mod seabios;
mod shown;
