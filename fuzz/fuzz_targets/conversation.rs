//! Whole conversations of a plugin with the VMM.
#![no_main]

mod held;

libfuzzer_sys::fuzz_target!(|data: &[u8]| held::nothing_held(|| _ = plugin_runtime::fuzzing::conversation(data)));
