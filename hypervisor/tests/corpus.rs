//! The saved inputs of the fuzz target of the mock's processor.

#[test]
fn saved_inputs_of_mock_cpu_break_nothing() {
    test_utils::fuzz::each_input("mock_cpu", test_utils::fuzz::mock_cpu);
}
