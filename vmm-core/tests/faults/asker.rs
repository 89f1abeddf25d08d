//! An owner that asks a stopped vCPU for all there is, and sets it as it was.

use std::collections::VecDeque;
use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use hypervisor::{Access, Capability, Direction, kvm_mp_state};
use vmm_core::{Command, Event, Exchange, LinkError, Pump, State, StateKind};

/// What was told to owners and callers.
#[derive(Default)]
pub(crate) struct Told {
    complaints: Mutex<Vec<String>>,
    initialisations: AtomicUsize,
}

impl Told {
    /// Something failed, in these words.
    pub(crate) fn complain(&self, error: &dyn Display) {
        self.complaints.lock().unwrap().push(error.to_string());
    }

    pub(crate) fn complaints(&self) -> Vec<String> {
        self.complaints.lock().unwrap().clone()
    }

    /// How many vCPUs were given to how many owners to initialise.
    pub(crate) fn initialisations(&self) -> usize {
        self.initialisations.load(Ordering::SeqCst)
    }
}

const KINDS: [StateKind; 8] = [
    StateKind::Regs,
    StateKind::Sregs,
    StateKind::Fpu,
    StateKind::DebugRegs,
    StateKind::Lapic,
    StateKind::MpState,
    StateKind::Xcrs,
    StateKind::Events,
];

/// An MSR that every backend has: `IA32_SYSENTER_CS`.
const MSR: u32 = 0x174;

pub(crate) struct Asker {
    queue: VecDeque<Command>,
    resume: Box<Exchange>,
    /// State that comes is set again.
    set_back: bool,
    told: Arc<Told>,
}

impl Asker {
    pub(crate) fn new(told: &Arc<Told>) -> Self {
        Self { queue: VecDeque::new(), resume: Box::default(), set_back: false, told: Arc::clone(told) }
    }

    /// What is asked at an event that stops the vCPU.
    fn begin(&mut self, commands: impl IntoIterator<Item = Command>, resume: Box<Exchange>) {
        self.queue = commands.into_iter().collect();
        self.resume = resume;
    }

    fn access(&mut self, access: &Access) {
        let data = match access.direction() {
            Direction::Read => vec![7; access.len()],
            Direction::Write => Vec::new(),
        };
        self.set_back = true;
        self.begin(KINDS.map(Command::Get), Exchange::answer(&data));
    }
}

impl Pump for Asker {
    fn step(&mut self, event: Event, _deadline: Option<Instant>) -> Result<Option<Command>, LinkError> {
        match event {
            Event::Posted { .. } => return Ok(None),
            Event::Init => {
                self.told.initialisations.fetch_add(1, Ordering::SeqCst);
                let commands = [
                    Command::Set(State::MpState(kvm_mp_state { mp_state: 0 })),
                    Command::SetCpuid(Vec::new()),
                    Command::GetMsrs(vec![MSR]),
                    Command::SetMsrs(vec![hypervisor::kvm_msr_entry { index: MSR, ..Default::default() }]),
                    Command::GetHypervCpuid,
                    Command::EnableCapability(Capability::HypervSynic),
                ];
                self.begin(commands, Box::default());
            }
            Event::Access { access, exchange } => {
                self.access(&access);
                // Given back with the resume, which is one more way to set them.
                if access.direction() == Direction::Write {
                    self.resume.set = exchange.attached.clone();
                }
            }
            Event::HypervCall { .. } | Event::HypervSynic(_) => self.begin([], Box::default()),
            Event::Paused { .. } => {
                self.set_back = false;
                self.begin([Command::Get(StateKind::Regs)], Box::default());
            }
            Event::State(Ok(state)) if self.set_back => self.queue.push_front(Command::Set(state)),
            Event::State(Err(error)) | Event::Done(Err(error)) | Event::Msrs(Err(error)) | Event::Cpuid(Err(error)) => {
                self.told.complain(&error);
            }
            Event::State(Ok(_)) | Event::Done(Ok(())) | Event::Msrs(Ok(_)) | Event::Cpuid(Ok(_)) => {}
        }
        Ok(Some(self.queue.pop_front().unwrap_or_else(|| Command::Resume(std::mem::take(&mut self.resume)))))
    }
}
