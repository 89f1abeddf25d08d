//! A VMM that the test plays, as everybody has it.

#[allow(unused_imports, reason = "each test file uses a part of it")]
pub(crate) use test_utils::fake::{VcpuEnds as FakeVcpu, Vmm as FakeVmm, sockets};
