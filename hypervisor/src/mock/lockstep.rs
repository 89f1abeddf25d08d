//! Several vCPUs in an order that is the same in each run.

use std::num::NonZeroU32;

use super::vcpu::{SoftVcpu, Stop};
use crate::{Result, VcpuId};

/// Runs vCPUs in turns, each a number of instructions long, on one thread. What runs is a function of the guest and of the
/// answers alone: the same program with the same answers is the same run, instruction for instruction, time stamps
/// included. vCPUs on threads of their own promise no such thing.
pub struct Lockstep {
    vcpus: Vec<SoftVcpu>,
    /// Instructions of a turn.
    turn: NonZeroU32,
    /// Whose turn it is, and how many instructions of it are left.
    current: usize,
    left: u32,
}

impl Lockstep {
    /// Takes vCPUs, of one VM, that have their turns in this order. If the VM's clock is the host's, it continues as a
    /// [virtual one](super::Clock::Virtual): a run does not depend on the host.
    pub fn new(vcpus: Vec<SoftVcpu>, turn: NonZeroU32) -> Self {
        for vcpu in &vcpus {
            vcpu.leave_hosts_clock();
        }
        Self { vcpus, turn, current: 0, left: turn.get() }
    }

    /// The vCPUs, to answer their accesses and to look at them.
    pub fn vcpus(&mut self) -> &mut [SoftVcpu] {
        &mut self.vcpus
    }

    /// Executes the next instruction of all: which vCPU's turn it was, and what it came to. [`Stop::Idle`] where every
    /// vCPU halts or was not started. The turn of one that exits goes on after its exit.
    ///
    /// # Errors
    ///
    /// A read that has not been answered, by the vCPU whose turn it is.
    pub fn step(&mut self) -> Result<(VcpuId, Stop)> {
        let mut idle = VcpuId(0);
        for _ in 0..=self.vcpus.len() {
            let Some(vcpu) = self.vcpus.get_mut(self.current) else { break };
            let id = crate::Vcpu::id(vcpu);
            let stop = vcpu.step()?;
            self.left = self.left.saturating_sub(1);
            if stop == Stop::Idle || self.left == 0 {
                self.current = (self.current + 1) % self.vcpus.len();
                self.left = self.turn.get();
            }
            if stop != Stop::Idle {
                return Ok((id, stop));
            }
            idle = id;
        }
        Ok((idle, Stop::Idle))
    }

    /// Executes on until a vCPU exits, or all are idle.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    pub fn run(&mut self) -> Result<(VcpuId, Stop)> {
        loop {
            match self.step()? {
                (_, Stop::Stepped | Stop::Breakpoint) => {}
                stop => return Ok(stop),
            }
        }
    }
}
