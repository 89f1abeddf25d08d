//! Fuzz targets: what is done with any bytes, and the saved bytes as tests.
//!
//! A body panics where a promise is broken. `fuzz/` wraps bodies for libFuzzer; `docs/fuzzing.md` tells how to run them.

mod corpus;
mod mock_cpu;

pub use corpus::each_input;
pub use mock_cpu::mock_cpu;
