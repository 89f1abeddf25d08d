//! The plugin author's side: a safe Rust API for Outboard plugins.
