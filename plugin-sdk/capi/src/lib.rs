//! The plugin API in C: `libcrosvm_plugin.so`, a thin layer over [`plugin_sdk`] with the functions of `crosvm.h`.
//!
//! `include/crosvm.h` says what each function does; `docs/c-api.md` tells the whole. This crate has nothing for Rust
//! programs.
//!
//! - `export` makes a C function of a Rust one: no panic leaves it, and its result is a number.
//! - `pointers` holds all trust in what C hands over. Beyond it nothing is `unsafe`.
//! - The other modules are groups of functions, as in the header.

mod abi;
mod connection;
mod errno;
mod export;
mod io_events;
mod irqs;
mod lists;
mod machine_state;
mod memory;
mod net;
mod object;
mod pointers;
mod ranges;
mod stats;
mod system;
mod vcpu;
mod vcpu_setup;
mod vcpu_state;
