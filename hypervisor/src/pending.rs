//! The rules of an unfinished access, kept once for all backends.

use crate::error::{Error, ReadProblem, Result};
use crate::{Access, Direction, Exit, VcpuId};

/// Bytes of a Hyper-V call's result.
const HYPERV_RESULT_BYTES: usize = 8;

/// The access a vCPU's last exit left unfinished.
#[derive(Debug)]
pub(crate) struct Pending {
    vcpu: VcpuId,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Nothing,
    Unanswered { len: usize },
    Answered,
    Write,
}

impl Pending {
    pub(crate) fn new(vcpu: VcpuId) -> Self {
        Self { vcpu, state: State::Nothing }
    }

    /// Remembers what an exit leaves to be done.
    pub(crate) fn after(&mut self, exit: &Exit) {
        self.state = match exit {
            Exit::Access(access) => Self::state_of(access),
            Exit::HypervCall { .. } => State::Unanswered { len: HYPERV_RESULT_BYTES },
            _ => State::Nothing,
        };
    }

    fn state_of(access: &Access) -> State {
        match access.direction() {
            Direction::Read => State::Unanswered { len: access.len() },
            Direction::Write => State::Write,
        }
    }

    /// May the guest be entered?
    pub(crate) fn check_enter(&self) -> Result<()> {
        match self.state {
            State::Unanswered { .. } => Err(self.broken(ReadProblem::Unanswered)),
            _ => Ok(()),
        }
    }

    /// May registers be set?
    pub(crate) fn check_set(&self) -> Result<()> {
        match self.state {
            State::Unanswered { .. } | State::Answered => Err(self.broken(ReadProblem::Uncommitted)),
            _ => Ok(()),
        }
    }

    /// Takes note of an answer of `given` bytes, if it is one.
    pub(crate) fn take_answer(&mut self, given: usize) -> Result<()> {
        match self.state {
            State::Unanswered { len } if len == given => {
                self.state = State::Answered;
                Ok(())
            }
            State::Unanswered { len } => Err(self.broken(ReadProblem::WrongLength { expected: len, given })),
            _ => Err(self.broken(ReadProblem::NothingToAnswer)),
        }
    }

    fn broken(&self, problem: ReadProblem) -> Error {
        Error::Read { vcpu: self.vcpu, problem }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AddressSpace;

    fn pending(access: Option<Access>) -> Pending {
        let mut pending = Pending::new(VcpuId(0));
        if let Some(access) = access {
            pending.after(&Exit::Access(access));
        }
        pending
    }

    fn problem<T: std::fmt::Debug>(result: Result<T>) -> ReadProblem {
        match result.unwrap_err() {
            Error::Read { problem, .. } => problem,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_read_is_answered_once_with_its_own_length_before_the_guest_runs_on() {
        let mut read = pending(Access::read(AddressSpace::Pio, 0x60, 2));
        assert_eq!(problem(read.check_enter()), ReadProblem::Unanswered);
        assert_eq!(problem(read.take_answer(1)), ReadProblem::WrongLength { expected: 2, given: 1 });
        read.take_answer(2).unwrap();
        read.check_enter().unwrap();
        assert_eq!(problem(read.take_answer(2)), ReadProblem::NothingToAnswer);
    }

    #[test]
    fn registers_are_not_set_between_a_reads_exit_and_its_commit() {
        let mut read = pending(Access::read(AddressSpace::Pio, 0x60, 1));
        assert_eq!(problem(read.check_set()), ReadProblem::Uncommitted);
        read.take_answer(1).unwrap();
        assert_eq!(problem(read.check_set()), ReadProblem::Uncommitted);
        read.after(&Exit::Interrupted);
        read.check_set().unwrap();
    }

    #[test]
    fn a_hyperv_call_is_a_read_of_eight_bytes() {
        let mut call = Pending::new(VcpuId(0));
        call.after(&Exit::HypervCall { input: 1, params: [2, 3] });
        assert_eq!(problem(call.check_enter()), ReadProblem::Unanswered);
        assert_eq!(problem(call.take_answer(4)), ReadProblem::WrongLength { expected: 8, given: 4 });
        call.take_answer(8).unwrap();
        assert_eq!(problem(call.check_set()), ReadProblem::Uncommitted);
        call.check_enter().unwrap();
    }

    #[test]
    fn a_write_takes_no_answer_and_registers_may_be_set() {
        let mut write = pending(Access::write(AddressSpace::Pio, 0x60, &[1]));
        write.check_enter().unwrap();
        write.check_set().unwrap();
        assert_eq!(problem(write.take_answer(1)), ReadProblem::NothingToAnswer);
    }
}
