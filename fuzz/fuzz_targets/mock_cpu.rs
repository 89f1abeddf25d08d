//! The mock's processor: any code, in any state.
#![no_main]

mod held;

libfuzzer_sys::fuzz_target!(|data: &[u8]| held::nothing_held(|| hypervisor::mock::fuzzing::mock_cpu(data)));
