//! Asking a vCPU for something, over pipes as over rings.

use rustix::io::Errno;

use super::vcpu_request::{self, MP, REGS, SREGS};
use super::{Fields, Message};

/// The plugin's end of the way to a vCPU.
pub trait VcpuChannel {
    /// Asks and sees that the answer is one to this request.
    ///
    /// # Panics
    ///
    /// If it is not.
    fn ask(&mut self, request: &Message) -> VcpuAnswer;

    /// Asks for what must be refused with `errno`.
    ///
    /// # Panics
    ///
    /// If it is not.
    fn refused(&mut self, request: &Message, errno: Errno) {
        let answer = self.ask(request);
        assert!(answer.is(errno), "not {errno:?} for {request:?}: {answer:?}");
    }

    /// Asks for what must succeed.
    ///
    /// # Panics
    ///
    /// If it does not.
    fn done(&mut self, request: &Message) -> Fields {
        let answer = self.ask(request);
        assert_eq!(answer.errno, 0, "{request:?}");
        answer.body
    }

    /// Some state, which must have the kernel's size.
    ///
    /// # Panics
    ///
    /// If it cannot be had.
    fn get(&mut self, (set, size): (u64, usize)) -> Vec<u8> {
        let state = self.done(&vcpu_request::get_state(set)).bytes(1).to_vec();
        assert_eq!(state.len(), size, "state {set}");
        state
    }

    /// Sets some state.
    ///
    /// # Panics
    ///
    /// If it is refused.
    fn set(&mut self, (set, _): (u64, usize), state: &[u8]) {
        self.done(&vcpu_request::set_state(set, state));
    }

    /// Lets the vCPU begin at `entry`, in real mode, once it is resumed.
    fn boot(&mut self, entry: u64) {
        let [sregs, regs] = vcpu_request::real_mode(self.get(SREGS), entry);
        self.set(SREGS, &sregs);
        self.set(REGS, &regs);
        // KVM_MP_STATE_RUNNABLE: only the first vCPU is at the start.
        self.set(MP, &[0; 4]);
    }
}

/// What a vCPU answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VcpuAnswer {
    /// 0, or why not.
    pub errno: i64,
    /// Which of the alternatives is there.
    pub field: Option<u32>,
    /// What is in it.
    pub body: Fields,
}

impl VcpuAnswer {
    /// Takes a `VcpuResponse` apart.
    ///
    /// # Panics
    ///
    /// If it is none, or has not one alternative at most.
    pub fn parse(message: &[u8]) -> Self {
        let fields = Fields::parse(message);
        let alternatives: Vec<u32> = fields.numbers().into_iter().filter(|number| *number != 1).collect();
        assert!(alternatives.len() <= 1, "not one alternative: {fields:?}");
        let field = alternatives.first().copied();
        let body = Fields::parse(field.map(|field| fields.bytes(field)).unwrap_or_default());
        Self { errno: fields.sint(1), field, body }
    }

    /// Sees that it is one to this request.
    ///
    /// # Panics
    ///
    /// If it is not.
    pub fn assert_answers(&self, request: &Message) {
        let asked = Fields::parse(request.as_bytes()).numbers()[0];
        // What the VMM does not know it cannot name.
        if self.field.is_some() || !self.is(Errno::NOTTY) {
            assert_eq!(self.field, vcpu_request::answer_field(asked), "not the answer to {request:?}: {self:?}");
        }
        assert!(self.errno >= 0, "{self:?}");
    }

    /// Whether it was refused with `errno`.
    pub fn is(&self, errno: Errno) -> bool {
        self.errno == i64::from(errno.raw_os_error())
    }
}
