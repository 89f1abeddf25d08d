//! The two ends of the plugin protocol, in the test's hands.
//!
//! * [`Plugin`]: a fake plugin, for tests of a VMM. Its process is real, and the test controls it.
//! * [`Vmm`]: a fake VMM, for tests of a plugin. It answers what the test lays down.

mod plugin;
mod vmm;

pub use plugin::{Plugin, be_the_plugin};
pub use vmm::{VcpuEnds, Vmm, sockets};
