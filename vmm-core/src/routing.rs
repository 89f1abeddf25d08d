//! The way of an exit: whose it is, what they ask of the vCPU, and the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hypervisor::{Access, Direction, Exit, MAX_ACCESS_BYTES, Vcpu, kvm_debugregs, kvm_regs, kvm_sregs};

use crate::address_map::{Claim, Service};
use crate::call_hint::CallHint;
use crate::channel::{Attached, Bytes, Command, Event, Resume, State, StateKind};
use crate::deferred::Deferred;
use crate::error::LinkError;
use crate::notice::StopReason;
use crate::owner::OwnerId;
use crate::prediction::Looks;
use crate::vcpu_loop::{Result, VcpuLoop, final_reason};

/// What an access nobody claimed reads.
static ZEROS: [u8; MAX_ACCESS_BYTES] = [0; MAX_ACCESS_BYTES];

/// A Hyper-V call's result: 64 bits (Hypervisor Top Level Functional Specification, 3.8).
const HYPERV_RESULT_BYTES: usize = 8;

/// Who gets what the guest says to Hyper-V: that has no address to be claimed, so it is the owner attached first.
pub(crate) const HYPERV_OWNER: OwnerId = OwnerId::new(0);

/// What an owner is asked.
struct Asked<'a> {
    event: Event,
    /// The access that waits for the answer.
    access: Option<&'a Access>,
    /// What came with it though no hint wants it.
    attached: Looks,
}

impl VcpuLoop {
    /// Sees an exit that leaves something pending through, with all fragments of its instruction if registers are to be
    /// set behind it.
    pub(crate) fn see_through(&mut self, mut exit: Exit) -> Result<()> {
        let mut deferred = Deferred::default();
        loop {
            let owner = match exit {
                Exit::Access(access) => self.access(&access, &mut deferred)?,
                Exit::HypervCall { input, params } => {
                    let event = Event::HypervCall { input, params };
                    let asked = Asked { event, access: None, attached: Looks::default() };
                    self.consult_read(HYPERV_OWNER, asked, HYPERV_RESULT_BYTES, &mut deferred)?;
                    Some(HYPERV_OWNER)
                }
                exit => return Err(final_reason(exit)),
            };
            if deferred.is_empty() {
                return Ok(());
            }
            exit = self.vcpu.commit()?;
            if exit == Exit::Interrupted {
                return deferred.apply(&mut *self.vcpu).map_err(|source| self.bad_resume(owner, source));
            }
        }
    }

    /// Routes one access to whom it belongs, and answers it.
    fn access(&mut self, access: &Access, deferred: &mut Deferred) -> Result<Option<OwnerId>> {
        let claim = self.claims.claim_on(&self.shared.map, access.space(), access.address());
        match (claim, access.direction()) {
            (Some(Claim { owner, service: Service::Synchronous }), Direction::Read) => {
                let asked = self.access_event(owner, access, Some(deferred))?;
                self.consult_read(owner, asked, access.len(), deferred)?;
            }
            (Some(Claim { owner, service: Service::Synchronous }), Direction::Write) => {
                // Behind a read of the same instruction a write is unfinished business too.
                let mut deferred = Some(deferred).filter(|deferred| !deferred.is_empty());
                let Asked { event, access, attached } = self.access_event(owner, access, deferred.as_deref_mut())?;
                let resume = self.consult(owner, event, access, attached, deferred.as_deref_mut())?;
                match deferred {
                    Some(deferred) => self.defer(resume, deferred),
                    None => self.apply(owner, resume)?,
                }
            }
            (Some(Claim { owner, service: Service::PostedWrites }), Direction::Write) => {
                let data = Bytes::from_slice(self.vcpu.access_data());
                self.post(owner, access, data)?;
            }
            (_, Direction::Read) => self.vcpu.answer(ZEROS.get(..access.len()).unwrap_or_default())?,
            (None, Direction::Write) => {}
        }
        Ok(claim.map(|claim| claim.owner))
    }

    /// Consults the owner of a read of `len` bytes, and answers with what it gives, no more and no less.
    fn consult_read(&mut self, owner: OwnerId, asked: Asked<'_>, len: usize, deferred: &mut Deferred) -> Result<()> {
        let Asked { event, access, attached } = asked;
        let mut resume = self.consult(owner, event, access, attached, Some(deferred))?;
        if resume.data.len() != len {
            resume.data.resize(len, 0);
        }
        self.vcpu.answer(&resume.data)?;
        self.defer(resume, deferred);
        Ok(())
    }

    /// The event of an access, with the registers attached that the hint asks for, or that its owner has been asking for.
    fn access_event<'a>(
        &mut self,
        owner: OwnerId,
        access: &'a Access,
        deferred: Option<&mut Deferred>,
    ) -> Result<Asked<'a>> {
        let data = Bytes::from_slice(self.vcpu.access_data());
        let mut attached = Attached::default();
        let mut unasked = Looks::default();
        if let Some(hint) = self.hint_about(access) {
            attached = self.attach_hinted(&hint, deferred)?;
        } else if self.owners.get(owner.index()).is_some_and(|(_, link)| link.tells_looks) {
            unasked = self.predictions.of(access);
            if unasked.any() {
                attached = self.attach(unasked, deferred)?;
            }
        }
        Ok(Asked { event: Event::Access { access: *access, data, attached }, access: Some(access), attached: unasked })
    }

    fn hint_about(&self, access: &Access) -> Option<Arc<CallHint>> {
        if !self.shared.has_hint.load(Ordering::SeqCst) {
            return None;
        }
        self.shared.hint.read().as_ref().filter(|hint| hint.is_about(access)).map(Arc::clone)
    }

    fn attach_hinted(&mut self, hint: &CallHint, deferred: Option<&mut Deferred>) -> hypervisor::Result<Attached> {
        let regs = self.vcpu.regs()?;
        let detail = hint.detail(&regs).unwrap_or_default();
        self.attach(Looks { regs: true, sregs: detail.sregs, debug_regs: detail.debug_regs }, deferred)
    }

    /// What was attached within a read was seen by the owner, as if it had asked.
    fn attach(&mut self, which: Looks, mut deferred: Option<&mut Deferred>) -> hypervisor::Result<Attached> {
        let mut attached = Attached::default();
        if which.regs {
            let mut regs = self.spare_regs.take().unwrap_or_default();
            *regs = current_regs(&*self.vcpu, deferred.as_deref_mut())?;
            attached.regs = Some(regs);
        }
        if which.sregs {
            attached.sregs = Some(current_sregs(&*self.vcpu, deferred.as_deref_mut())?);
        }
        if which.debug_regs {
            attached.debug_regs = Some(current_debug_regs(&*self.vcpu, deferred)?);
        }
        Ok(attached)
    }

    /// Tells `owner` of a write that the guest does not wait for. One that cannot take it now is waited for all the same:
    /// no posted write is lost.
    fn post(&mut self, owner: OwnerId, access: &Access, data: Bytes) -> Result<()> {
        let event = Event::Posted { access: *access, data };
        let deadline = self.deadline();
        let Some((name, link)) = self.owners.get_mut(owner.index()) else { return Ok(()) };
        link.post(event, deadline).map_err(|error| link_reason(error, name, Some(access)))
    }

    /// Tells of the writes that were coalesced up to here: they came before the exit that is looked at next.
    pub(crate) fn tell_coalesced(&mut self) -> Result<()> {
        if !self.shared.coalesced.any() {
            return Ok(());
        }
        let mut writes = std::mem::take(&mut self.coalesced);
        self.shared.coalesced.take(&mut writes);
        for (owner, access) in writes.drain(..) {
            // They are short, so all of their bytes are inline.
            self.post(owner, &access, Bytes::from_slice(access.inline_data().unwrap_or_default()))?;
        }
        self.coalesced = writes;
        Ok(())
    }

    /// When an access that begins now must have been answered.
    fn deadline(&self) -> Option<Instant> {
        self.shared.exit_timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    /// Sends `event` to its owner and does what it asks until it says resume.
    pub(crate) fn consult(
        &mut self,
        owner: OwnerId,
        event: Event,
        access: Option<&Access>,
        attached: Looks,
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
        let mut asked = Looks::default();
        loop {
            let answer = match link.receive(deadline).map_err(failed)? {
                Command::Resume(resume) => {
                    link.tells_looks = resume.seen.is_some();
                    if let Some(access) = access.filter(|_| attached.any()) {
                        let seen = resume.seen.unwrap_or_default().or(asked);
                        self.predictions.told(access, attached, seen);
                        if let Some(deferred) = deferred {
                            deferred.forget_unseen(attached, seen);
                        }
                    }
                    return Ok(resume);
                }
                Command::Get(kind) => {
                    asked.note(kind);
                    if let Some(access) = access.filter(|_| link.tells_looks) {
                        self.predictions.asked(access, kind);
                    }
                    Event::State(get(&*self.vcpu, kind, deferred.as_deref_mut()))
                }
                Command::Set(state) => Event::Done(set(&mut *self.vcpu, state, deferred.as_deref_mut())),
                Command::GetMsrs(indices) => Event::Msrs(self.vcpu.msrs(&indices)),
                // However many were taken, that is no error.
                Command::SetMsrs(entries) => Event::Done(self.vcpu.set_msrs(&entries).map(drop)),
                Command::SetCpuid(entries) => Event::Done(self.vcpu.set_cpuid(&entries)),
                Command::GetHypervCpuid => Event::Cpuid(self.vcpu.hyperv_cpuid()),
                Command::EnableCapability(capability) => Event::Done(self.vcpu.enable_capability(capability)),
                Command::Stop => return Err(StopReason::Released { owner: name.to_string() }),
                Command::Fail(error) => return Err(failed(error)),
            };
            link.send(answer).map_err(failed)?;
        }
    }

    /// Sets the registers of a resume, in their order.
    pub(crate) fn apply(&mut self, owner: OwnerId, mut resume: Resume) -> Result<()> {
        let regs = resume.regs.as_deref().map_or(Ok(()), |regs| self.vcpu.set_regs(regs));
        let applied = regs
            .and_then(|()| resume.sregs.as_deref().map_or(Ok(()), |sregs| self.vcpu.set_sregs(sregs)))
            .and_then(|()| resume.debug_regs.as_deref().map_or(Ok(()), |regs| self.vcpu.set_debug_regs(regs)));
        self.keep_spare(&mut resume);
        applied.map_err(|source| self.bad_resume(Some(owner), source))
    }

    /// Keeps the registers of a resume until they can be set.
    fn defer(&mut self, mut resume: Resume, deferred: &mut Deferred) {
        if let Some(regs) = &resume.regs {
            deferred.set_regs(**regs);
        }
        if let Some(sregs) = resume.sregs.take() {
            deferred.set_sregs(sregs);
        }
        if let Some(debug_regs) = resume.debug_regs.take() {
            deferred.set_debug_regs(debug_regs);
        }
        self.keep_spare(&mut resume);
    }

    fn keep_spare(&mut self, resume: &mut Resume) {
        if let Some(spare) = resume.regs.take().or(resume.spare.take()) {
            self.spare_regs = Some(spare);
        }
    }

    fn bad_resume(&self, owner: Option<OwnerId>, source: hypervisor::Error) -> StopReason {
        let name = owner.and_then(|owner| self.owners.get(owner.index())).map(|(name, _)| name.to_string());
        StopReason::BadResume { owner: name.unwrap_or_default(), source }
    }
}

fn current_regs(vcpu: &dyn Vcpu, deferred: Option<&mut Deferred>) -> hypervisor::Result<kvm_regs> {
    deferred.map_or_else(|| vcpu.regs(), |deferred| deferred.regs(vcpu))
}

fn current_sregs(vcpu: &dyn Vcpu, deferred: Option<&mut Deferred>) -> hypervisor::Result<Box<kvm_sregs>> {
    deferred.map_or_else(|| vcpu.sregs().map(Box::new), |deferred| deferred.sregs(vcpu))
}

fn current_debug_regs(vcpu: &dyn Vcpu, deferred: Option<&mut Deferred>) -> hypervisor::Result<Box<kvm_debugregs>> {
    deferred.map_or_else(|| vcpu.debug_regs().map(Box::new), |deferred| deferred.debug_regs(vcpu))
}

fn get(vcpu: &dyn Vcpu, kind: StateKind, deferred: Option<&mut Deferred>) -> hypervisor::Result<State> {
    Ok(match kind {
        StateKind::Regs => State::Regs(Box::new(current_regs(vcpu, deferred)?)),
        StateKind::Sregs => State::Sregs(current_sregs(vcpu, deferred)?),
        StateKind::DebugRegs => State::DebugRegs(current_debug_regs(vcpu, deferred)?),
        StateKind::Fpu => State::Fpu(Box::new(vcpu.fpu()?)),
        StateKind::Lapic => State::Lapic(Box::new(vcpu.lapic()?)),
        StateKind::MpState => State::MpState(vcpu.mp_state()?),
        StateKind::Xcrs => State::Xcrs(Box::new(vcpu.xcrs()?)),
        StateKind::Events => State::Events(Box::new(vcpu.vcpu_events()?)),
    })
}

fn set(vcpu: &mut dyn Vcpu, state: State, deferred: Option<&mut Deferred>) -> hypervisor::Result<()> {
    match (state, deferred) {
        (State::Regs(regs), Some(deferred)) => deferred.set_regs(*regs),
        (State::Regs(regs), None) => vcpu.set_regs(&regs)?,
        (State::Sregs(sregs), Some(deferred)) => deferred.set_sregs(sregs),
        (State::Sregs(sregs), None) => vcpu.set_sregs(&sregs)?,
        (State::Fpu(fpu), _) => vcpu.set_fpu(&fpu)?,
        (State::DebugRegs(debug_regs), deferred) => {
            vcpu.set_debug_regs(&debug_regs)?;
            deferred.into_iter().for_each(Deferred::drop_debug_regs);
        }
        (State::Lapic(lapic), _) => vcpu.set_lapic(&lapic)?,
        (State::MpState(mp_state), _) => vcpu.set_mp_state(&mp_state)?,
        (State::Xcrs(xcrs), _) => vcpu.set_xcrs(&xcrs)?,
        (State::Events(events), _) => vcpu.set_vcpu_events(&events)?,
    }
    Ok(())
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
