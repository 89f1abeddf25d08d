//! The C library: a C program for each group of functions, run as a plugin; and how programs are built with it.
//!
//! The programs are in `plugin-sdk/capi/tests/c`. Each checks what it is about and exits with 0.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails its test")]

#[path = "../common/mod.rs"]
mod common;
mod compiler;
mod examples;
mod groups;
mod install;
mod library;
mod readme;
mod serial_items;
