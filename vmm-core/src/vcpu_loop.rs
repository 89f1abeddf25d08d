//! One vCPU's life: initialised by its owners, then around and around: enter, exit, route, answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypervisor::{Access, Direction, Exit, MAX_ACCESS_BYTES, Vcpu};

use crate::address_map::{AddressMap, Claim, Service};
use crate::channel::{Bytes, Command, Event, Resume, State, StateKind};
use crate::control::Control;
use crate::deferred::Deferred;
use crate::error::LinkError;
use crate::gate::Gate;
use crate::link::Link;
use crate::notice::{Notice, Notifier, StopReason};
use crate::owner::OwnerId;
use crate::stop_signal::StopSignal;

/// What an access nobody claimed reads.
static ZEROS: [u8; MAX_ACCESS_BYTES] = [0; MAX_ACCESS_BYTES];

/// All that a vCPU's thread has.
pub(crate) struct VcpuLoop {
    pub(crate) vcpu: Box<dyn Vcpu>,
    /// By owner.
    pub(crate) owners: Vec<(Arc<str>, Link)>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) control: Arc<Control>,
}

/// What the vCPUs of a machine have in common.
pub(crate) struct Shared {
    pub(crate) map: Arc<AddressMap>,
    pub(crate) gate: Gate,
    pub(crate) stop: StopSignal,
    pub(crate) notifier: Notifier,
    /// How long an owner may take to answer an access.
    pub(crate) exit_timeout: Option<Duration>,
}

type Result<T> = std::result::Result<T, StopReason>;

impl VcpuLoop {
    /// Runs until the vCPU stops for good, and tells why.
    pub(crate) fn run(mut self) {
        let id = self.vcpu.id();
        let report = Report { notifier: self.shared.notifier.clone(), id, reason: None };
        let reason = match self.live() {
            Ok(never) => match never {},
            Err(reason) => reason,
        };
        // The vCPU is gone before anyone hears that it has stopped.
        drop(self);
        report.stopped(reason);
    }

    fn live(&mut self) -> Result<Infallible> {
        for index in 0..self.owners.len() {
            self.stand_still(OwnerId::new(index), Event::Init)?;
        }
        self.deliver_pauses()?;
        self.shared.gate.arrive();
        let shared = Arc::clone(&self.shared);
        while !shared.gate.wait(|| shared.stop.is_set() || self.control.has_pause()) {
            self.check_stop()?;
            self.deliver_pauses()?;
        }
        self.shared.notifier.send(Notice::Started(self.vcpu.id()));
        let mut unknown = None;
        loop {
            self.check_stop()?;
            match self.vcpu.run()? {
                Exit::Access(access) => self.access(access)?,
                Exit::Interrupted => self.deliver_pauses()?,
                Exit::Unknown(reason) => {
                    // A guest can make the same one without end.
                    if unknown.replace(reason) != Some(reason) {
                        tracing::warn!(vcpu = %self.vcpu.id(), reason, "unknown exit, the vCPU runs on");
                    }
                }
                exit => return Err(final_reason(exit)),
            }
        }
    }

    fn check_stop(&self) -> Result<()> {
        if self.shared.stop.is_set() { Err(StopReason::Asked) } else { Ok(()) }
    }

    /// Delivers the pauses that wait. Called only at safe points, where no access is pending.
    fn deliver_pauses(&mut self) -> Result<()> {
        while let Some((owner, user)) = self.control.take_pause() {
            self.shared.notifier.send(Notice::Paused(self.vcpu.id()));
            self.stand_still(owner, Event::Paused { user })?;
        }
        Ok(())
    }

    /// Waits at a safe point for `owner`'s resume.
    fn stand_still(&mut self, owner: OwnerId, event: Event) -> Result<()> {
        let resume = self.consult(owner, event, None, None)?;
        self.apply(owner, resume.regs, resume.sregs)
    }

    /// Sees an access through, with all fragments of its instruction if registers are to be set behind it.
    fn access(&mut self, mut access: Access) -> Result<()> {
        let mut deferred = Deferred::default();
        loop {
            let claim = self.shared.map.claim_on(access.space(), access.address());
            match (claim, access.direction()) {
                (Some(Claim { owner, service: Service::Synchronous }), _) => {
                    self.owned_access(owner, &access, &mut deferred)?;
                }
                (Some(Claim { owner, service: Service::PostedWrites }), Direction::Write) => {
                    self.posted_write(owner, &access)?;
                }
                (_, Direction::Read) => self.vcpu.answer(ZEROS.get(..access.len()).unwrap_or_default())?,
                (None, Direction::Write) => {}
            }
            if deferred.is_empty() {
                return Ok(());
            }
            match self.vcpu.commit()? {
                Exit::Interrupted => {
                    return deferred
                        .apply(&mut *self.vcpu)
                        .map_err(|source| self.bad_resume(claim.map(|claim| claim.owner), source));
                }
                Exit::Access(next) => access = next,
                exit => return Err(final_reason(exit)),
            }
        }
    }

    fn owned_access(&mut self, owner: OwnerId, access: &Access, deferred: &mut Deferred) -> Result<()> {
        let event = Event::Access { access: *access, data: Bytes::from_slice(self.vcpu.access_data()) };
        let is_read = access.direction() == Direction::Read;
        // Behind a read of the same instruction a write is unfinished business too.
        let must_defer = is_read || !deferred.is_empty();
        let resume = self.consult(owner, event, Some(access), must_defer.then_some(&mut *deferred))?;
        if is_read {
            let mut data = resume.data;
            data.resize(access.len(), 0);
            self.vcpu.answer(&data)?;
        }
        if !must_defer {
            return self.apply(owner, resume.regs, resume.sregs);
        }
        if let Some(regs) = resume.regs {
            deferred.set_regs(regs);
        }
        if let Some(sregs) = resume.sregs {
            deferred.set_sregs(sregs);
        }
        Ok(())
    }

    /// Tells `owner` of a write that the guest does not wait for. One that cannot take it now is waited for all the same:
    /// no posted write is lost.
    fn posted_write(&mut self, owner: OwnerId, access: &Access) -> Result<()> {
        let event = Event::Posted { access: *access, data: Bytes::from_slice(self.vcpu.access_data()) };
        let deadline = self.deadline();
        let Some((name, link)) = self.owners.get_mut(owner.index()) else { return Ok(()) };
        link.post(event, deadline).map_err(|error| link_reason(error, name, Some(access)))
    }

    /// When an access that begins now must have been answered.
    fn deadline(&self) -> Option<Instant> {
        self.shared.exit_timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    /// Sends `event` to its owner and does what it asks until it says resume.
    fn consult(
        &mut self,
        owner: OwnerId,
        event: Event,
        access: Option<&Access>,
        mut deferred: Option<&mut Deferred>,
    ) -> Result<Resume> {
        // The owner may take any time over what is no access.
        let deadline = access.and_then(|_| self.deadline());
        let Some((name, link)) = self.owners.get_mut(owner.index()) else {
            // Reserved for one who is not attached: as if nobody had claimed it.
            return Ok(Resume::default());
        };
        let failed = |error| link_reason(error, name, access);
        link.send(event).map_err(failed)?;
        loop {
            let answer = match link.receive(deadline).map_err(failed)? {
                Command::Resume(resume) => return Ok(resume),
                Command::Get(kind) => Event::State(get(&*self.vcpu, kind, deferred.as_deref_mut())),
                Command::Set(state) => Event::Done(set(&mut *self.vcpu, state, deferred.as_deref_mut())),
                Command::Stop => return Err(StopReason::Released { owner: name.to_string() }),
                Command::Fail(error) => return Err(failed(error)),
            };
            link.send(answer).map_err(failed)?;
        }
    }

    fn apply(
        &mut self,
        owner: OwnerId,
        regs: Option<hypervisor::kvm_regs>,
        sregs: Option<Box<hypervisor::kvm_sregs>>,
    ) -> Result<()> {
        if let Some(regs) = regs {
            self.vcpu.set_regs(&regs).map_err(|source| self.bad_resume(Some(owner), source))?;
        }
        if let Some(sregs) = sregs {
            self.vcpu.set_sregs(&sregs).map_err(|source| self.bad_resume(Some(owner), source))?;
        }
        Ok(())
    }

    fn bad_resume(&self, owner: Option<OwnerId>, source: hypervisor::Error) -> StopReason {
        let name = owner.and_then(|owner| self.owners.get(owner.index())).map(|(name, _)| name.to_string());
        StopReason::BadResume { owner: name.unwrap_or_default(), source }
    }
}

fn get(vcpu: &dyn Vcpu, kind: StateKind, deferred: Option<&mut Deferred>) -> hypervisor::Result<State> {
    match (kind, deferred) {
        (StateKind::Regs, Some(deferred)) => deferred.regs(vcpu).map(State::Regs),
        (StateKind::Regs, None) => vcpu.regs().map(State::Regs),
        (StateKind::Sregs, Some(deferred)) => deferred.sregs(vcpu).map(State::Sregs),
        (StateKind::Sregs, None) => vcpu.sregs().map(|sregs| State::Sregs(Box::new(sregs))),
        (StateKind::MpState, _) => vcpu.mp_state().map(State::MpState),
    }
}

fn set(vcpu: &mut dyn Vcpu, state: State, deferred: Option<&mut Deferred>) -> hypervisor::Result<()> {
    match (state, deferred) {
        (State::Regs(regs), Some(deferred)) => deferred.set_regs(regs),
        (State::Regs(regs), None) => vcpu.set_regs(&regs)?,
        (State::Sregs(sregs), Some(deferred)) => deferred.set_sregs(sregs),
        (State::Sregs(sregs), None) => vcpu.set_sregs(&sregs)?,
        (State::MpState(mp_state), _) => vcpu.set_mp_state(&mp_state)?,
    }
    Ok(())
}

/// What an exit that ends the vCPU ends it for.
fn final_reason(exit: Exit) -> StopReason {
    match exit {
        Exit::Halted => StopReason::Halted,
        Exit::Shutdown => StopReason::Shutdown,
        Exit::InternalError(error) => StopReason::InternalError(error),
        Exit::EntryFailed(reason) => StopReason::EntryFailed(reason),
        Exit::Access(_) | Exit::Interrupted | Exit::Unknown(_) => StopReason::Asked,
    }
}

fn link_reason(error: LinkError, owner: &str, access: Option<&Access>) -> StopReason {
    let owner = owner.to_string();
    match (error, access) {
        (LinkError::Stopped, _) => StopReason::Asked,
        (LinkError::TimedOut, Some(access)) => StopReason::TimedOut { owner, access: *access },
        (LinkError::HungUp, _) => StopReason::HungUp { owner },
        (LinkError::Fault(source), _) => StopReason::Fault { owner, source },
        (error @ LinkError::TimedOut, None) => StopReason::Fault { owner, source: Box::new(error) },
    }
}

/// Tells that the vCPU stopped, also when its thread panics.
struct Report {
    notifier: Notifier,
    id: hypervisor::VcpuId,
    reason: Option<StopReason>,
}

impl Report {
    fn stopped(mut self, reason: StopReason) {
        self.reason = Some(reason);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        let reason = self.reason.take().unwrap_or(StopReason::Panicked);
        self.notifier.send(Notice::Stopped(self.id, reason));
    }
}
