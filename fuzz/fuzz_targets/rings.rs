//! The rings in shared memory.
#![no_main]

mod held;

libfuzzer_sys::fuzz_target!(|data: &[u8]| held::nothing_held(|| plugin_runtime::fuzzing::rings(data)));
