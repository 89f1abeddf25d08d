//! Each request of the protocol, its success and its errors, asked by a client that was written from the protocol's
//! tables alone (see `test_utils::raw`). The words here are those of `docs/protocol.md`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "what fails here fails its test")]

#[path = "../common/mod.rs"]
mod common;

mod call_hints;
mod coalesced_writes;
mod connections;
mod dirty_log;
mod hyperv;
mod io_events;
mod irqs;
mod item_widths;
mod machine_state;
mod many_vcpus;
mod memory;
mod pausing;
mod posted_writes;
mod reservations;
mod resume;
mod ring_order;
mod rings;
mod start;
mod system;
mod vcpu_registers;
mod vcpu_requests;
mod vcpu_state;
