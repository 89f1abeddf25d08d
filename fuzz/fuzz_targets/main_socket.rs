//! The main socket: any datagrams, with any descriptors.
#![no_main]

mod held;

libfuzzer_sys::fuzz_target!(|data: &[u8]| held::nothing_held(|| plugin_runtime::fuzzing::main_socket(data)));
