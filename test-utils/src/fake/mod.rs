//! The two ends of the plugin protocol, in the test's hands: a fake plugin for tests of a VMM.

mod plugin;

pub use plugin::{Plugin, be_the_plugin};
