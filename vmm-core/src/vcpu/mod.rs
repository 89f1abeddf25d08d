//! A vCPU: its thread, and the dispatch of its exits.

mod dispatch;
mod handle;
mod start_barrier;
mod thread;

pub(crate) use handle::VcpuHandle;
pub(crate) use start_barrier::StartBarrier;
pub(crate) use thread::{Shared, VcpuThread};
