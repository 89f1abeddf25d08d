//! Each request of protocol version 0, its success and its errors, asked by a client that was written from the protocol's
//! tables alone (see `test_utils::raw`). The words here are those of `docs/protocol.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails its test")]

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod many_vcpus;
mod memory;
mod pausing;
mod posted_writes;
mod reservations;
mod resume;
mod served_later_call_hints;
mod served_later_dirty_log;
mod served_later_hyperv;
mod served_later_io_events;
mod served_later_irqs;
mod served_later_machine_state;
mod served_later_system;
mod served_later_vcpu_requests;
mod served_later_vcpu_state;
mod start;
mod vcpu_state;
