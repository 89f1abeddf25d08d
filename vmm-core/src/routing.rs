//! The way of an exit: whose it is, what they ask of the vCPU, and the answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hypervisor::{Access, Direction, Exit, MAX_ACCESS_BYTES, Vcpu, kvm_debugregs, kvm_regs, kvm_sregs};

use crate::address_map::{Claim, Service};
use crate::channel::{Command, Event, State, StateKind};
use crate::deferred::Deferred;
use crate::error::LinkError;
use crate::exchange::{Exchange, Registers};
use crate::notice::StopReason;
use crate::owner::OwnerId;
use crate::prediction::Looks;
use crate::unclaimed::Unclaimed;
use crate::vcpu_loop::{Result, VcpuLoop, final_reason, guest_state};

/// What an access nobody claimed reads.
static ZEROS: [u8; MAX_ACCESS_BYTES] = [0; MAX_ACCESS_BYTES];

/// A Hyper-V call's result: 64 bits (Hypervisor Top Level Functional Specification, 3.8).
const HYPERV_RESULT_BYTES: usize = 8;

/// Who gets what the guest says to Hyper-V: that has no address to be claimed, so it is the owner attached first.
pub(crate) const HYPERV_OWNER: OwnerId = OwnerId::new(0);

impl VcpuLoop {
    /// Tells of a write that is the first access of its instruction.
    #[inline]
    pub(crate) fn write(&mut self, access: &Access) -> Result<()> {
        match self.claims.claim_on(&self.shared.map, access.space(), access.address()) {
            Some(Claim { owner, service: Service::Synchronous }) => {
                let exchange = self.consult_about(owner, access, None)?;
                self.apply(owner, exchange)
            }
            Some(Claim { owner, service: Service::PostedWrites }) => {
                let long = if access.has_long_data() { self.vcpu.access_data().into() } else { Box::default() };
                self.post(owner, access, long)
            }
            None => self.unclaimed(access),
        }
    }

    /// Nobody has reserved `access`.
    #[cold]
    fn unclaimed(&mut self, access: &Access) -> Result<()> {
        let policy = self.shared.unclaimed.get().copied().unwrap_or_default();
        if policy == Unclaimed::Stop {
            let state = guest_state(&*self.vcpu);
            return Err(StopReason::Unclaimed { access: *access, state }.into());
        }
        self.unclaimed.log(policy, self.vcpu.id(), access);
        Ok(())
    }

    /// Sees an exit through that waits for data, with all fragments of its instruction if registers are to be set behind it.
    pub(crate) fn see_through(&mut self, mut exit: Exit) -> Result<()> {
        let mut deferred = Deferred::default();
        loop {
            let owner = match exit {
                Exit::Access(access) => self.fragment(&access, &mut deferred)?,
                Exit::HypervCall { input, params } => {
                    let event = Event::HypervCall { input, params, exchange: self.exchange() };
                    let exchange = self.consult(HYPERV_OWNER, event, None, Looks::default(), Some(&mut deferred))?;
                    self.finish_read(exchange, HYPERV_RESULT_BYTES, &mut deferred)?;
                    Some(HYPERV_OWNER)
                }
                exit => return Err(final_reason(exit, &*self.vcpu).into()),
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

    /// Routes one access of an instruction to whom it belongs, and answers it.
    fn fragment(&mut self, access: &Access, deferred: &mut Deferred) -> Result<Option<OwnerId>> {
        let claim = self.claims.claim_on(&self.shared.map, access.space(), access.address());
        match (claim, access.direction()) {
            (Some(Claim { owner, service: Service::Synchronous }), Direction::Read) => {
                let exchange = self.consult_about(owner, access, Some(deferred))?;
                self.finish_read(exchange, access.len(), deferred)?;
            }
            (_, Direction::Read) => {
                self.unclaimed(access)?;
                self.vcpu.answer(ZEROS.get(..access.len()).unwrap_or_default())?;
            }
            // Behind a read of the same instruction a write is unfinished business too.
            (Some(Claim { owner, service: Service::Synchronous }), Direction::Write) if !deferred.is_empty() => {
                let exchange = self.consult_about(owner, access, Some(deferred))?;
                self.defer(exchange, deferred);
            }
            (_, Direction::Write) => self.write(access)?,
        }
        Ok(claim.map(|claim| claim.owner))
    }

    /// Answers a read of `len` bytes with what its owner gave, no more and no less.
    fn finish_read(&mut self, mut exchange: Box<Exchange>, len: usize, deferred: &mut Deferred) -> Result<()> {
        if exchange.data.len() != len {
            exchange.data.resize(len, 0);
        }
        self.vcpu.answer(&exchange.data)?;
        self.defer(exchange, deferred);
        Ok(())
    }

    /// Consults `owner` about an access, with the registers attached that the hint asks for, or that it has been asking for.
    fn consult_about(
        &mut self,
        owner: OwnerId,
        access: &Access,
        mut deferred: Option<&mut Deferred>,
    ) -> Result<Box<Exchange>> {
        let mut exchange = self.exchange();
        if access.has_long_data() {
            self.attach_data(&mut exchange);
        }
        let mut unasked = Looks::default();
        let is_hinted = self.shared.has_hint.load(Ordering::SeqCst)
            && self.attach_hinted(access, &mut exchange, deferred.as_deref_mut())?;
        if !is_hinted && self.owners.get(owner.index()).is_some_and(|(_, link)| link.tells_looks) {
            unasked = self.predictions.of(access);
            if unasked.any() {
                self.attach(unasked, &mut exchange, deferred.as_deref_mut())?;
            }
        }
        self.consult(owner, Event::Access { access: *access, exchange }, Some(access), unasked, deferred)
    }

    /// An empty one, in the box that the last came back in.
    fn exchange(&mut self) -> Box<Exchange> {
        let mut exchange = self.spare.take().unwrap_or_default();
        exchange.clear();
        exchange
    }

    #[cold]
    fn attach_data(&self, exchange: &mut Exchange) {
        exchange.long.extend_from_slice(self.vcpu.access_data());
    }

    /// Attaches what a hint about `access` wants; false where there is none.
    #[inline(never)]
    fn attach_hinted(
        &self,
        access: &Access,
        exchange: &mut Exchange,
        deferred: Option<&mut Deferred>,
    ) -> hypervisor::Result<bool> {
        let Some(hint) = self.shared.hint.read().as_ref().filter(|hint| hint.is_about(access)).map(Arc::clone) else {
            return Ok(false);
        };
        let regs = self.vcpu.regs()?;
        let detail = hint.detail(&regs).unwrap_or_default();
        let which = Looks { regs: true, sregs: detail.sregs, debug_regs: detail.debug_regs };
        self.attach(which, exchange, deferred)?;
        Ok(true)
    }

    /// What was attached within a read was seen by the owner, as if it had asked.
    #[inline(never)]
    fn attach(
        &self,
        which: Looks,
        exchange: &mut Exchange,
        mut deferred: Option<&mut Deferred>,
    ) -> hypervisor::Result<()> {
        let attached = &mut exchange.attached;
        if which.regs {
            attached.put_regs(&current_regs(&*self.vcpu, deferred.as_deref_mut())?);
        }
        if which.sregs {
            attached.put_sregs(&*current_sregs(&*self.vcpu, deferred.as_deref_mut())?);
        }
        if which.debug_regs {
            attached.put_debug_regs(&*current_debug_regs(&*self.vcpu, deferred)?);
        }
        Ok(())
    }

    /// Tells `owner` of a write that the guest does not wait for. One that cannot take it now is waited for all the same:
    /// no posted write is lost.
    fn post(&mut self, owner: OwnerId, access: &Access, long: Box<[u8]>) -> Result<()> {
        let event = Event::Posted { access: *access, long };
        let deadline = self.deadline();
        let Some((name, link)) = self.owners.get_mut(owner.index()) else { return Ok(()) };
        link.post(event, deadline).map_err(|error| link_reason(error, name, Some(access)))
    }

    /// Tells of the writes that were coalesced up to here: they came before the exit that is looked at next.
    #[inline]
    pub(crate) fn tell_coalesced(&mut self) -> Result<()> {
        if self.shared.coalesced.any() { self.post_coalesced() } else { Ok(()) }
    }

    #[inline(never)]
    fn post_coalesced(&mut self) -> Result<()> {
        let mut writes = std::mem::take(&mut self.coalesced);
        self.shared.coalesced.take(&mut writes);
        for (owner, access) in writes.drain(..) {
            // They are short, so all of their bytes are inline.
            self.post(owner, &access, Box::default())?;
        }
        self.coalesced = writes;
        Ok(())
    }

    /// When an access that begins now must have been answered.
    fn deadline(&self) -> Option<Instant> {
        self.shared.exit_timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    /// Sends `event` to its owner and does what it asks until it says resume. `attached` came with the access unasked.
    #[inline(always)]
    pub(crate) fn consult(
        &mut self,
        owner: OwnerId,
        event: Event,
        access: Option<&Access>,
        attached: Looks,
        deferred: Option<&mut Deferred>,
    ) -> Result<Box<Exchange>> {
        // The owner may take any time over what is no access.
        let deadline = access.and_then(|_| self.deadline());
        let Some((name, link)) = self.owners.get_mut(owner.index()) else {
            // Reserved for one who is not attached: as if nobody had claimed it.
            return Ok(Box::default());
        };
        match link.ask(event, deadline) {
            Ok(Some(Command::Resume(exchange))) => {
                link.tells_looks = exchange.seen.is_some();
                if attached.any() {
                    self.learn(access, attached, exchange.seen.unwrap_or_default(), deferred);
                }
                Ok(exchange)
            }
            Ok(Some(command)) => self.converse(owner, command, access, attached, deferred, deadline),
            Ok(None) => Err(link_reason(LinkError::HungUp, name, access)),
            Err(error) => Err(link_reason(error, name, access)),
        }
    }

    /// Does what an owner asks, beginning with `command`, until it says resume; and learns of what it has looked at.
    #[inline(never)]
    fn converse(
        &mut self,
        owner: OwnerId,
        mut command: Command,
        access: Option<&Access>,
        attached: Looks,
        mut deferred: Option<&mut Deferred>,
        deadline: Option<Instant>,
    ) -> Result<Box<Exchange>> {
        let Some((name, link)) = self.owners.get_mut(owner.index()) else { return Ok(Box::default()) };
        let mut asked = Looks::default();
        loop {
            let answer = match command {
                Command::Resume(exchange) => {
                    link.tells_looks = exchange.seen.is_some();
                    if attached.any() {
                        self.learn(access, attached, exchange.seen.unwrap_or_default().or(asked), deferred);
                    }
                    return Ok(exchange);
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
                Command::Stop => return Err(StopReason::Released { owner: name.to_string() }.into()),
                Command::Fail(error) => return Err(link_reason(error, name, access)),
            };
            command = link
                .ask(answer, deadline)
                .and_then(|command| command.ok_or(LinkError::HungUp))
                .map_err(|error| link_reason(error, name, access))?;
        }
    }

    /// Takes note of what an owner has looked at of that which came with an access unasked.
    #[inline(never)]
    fn learn(&mut self, access: Option<&Access>, attached: Looks, seen: Looks, deferred: Option<&mut Deferred>) {
        if let Some(access) = access {
            self.predictions.told(access, attached, seen);
        }
        if let Some(deferred) = deferred {
            deferred.forget_unseen(attached, seen);
        }
    }

    /// Sets the registers of a resume, in their order.
    pub(crate) fn apply(&mut self, owner: OwnerId, exchange: Box<Exchange>) -> Result<()> {
        if exchange.set.there().any() {
            set_all(&mut *self.vcpu, &exchange.set).map_err(|source| self.bad_resume(Some(owner), source))?;
        }
        self.spare = Some(exchange);
        Ok(())
    }

    /// Keeps the registers of a resume until they can be set.
    fn defer(&mut self, exchange: Box<Exchange>, deferred: &mut Deferred) {
        if let Some(regs) = exchange.set.regs() {
            deferred.set_regs(*regs);
        }
        if let Some(sregs) = exchange.set.sregs() {
            deferred.set_sregs(Box::new(*sregs));
        }
        if let Some(debug_regs) = exchange.set.debug_regs() {
            deferred.set_debug_regs(Box::new(*debug_regs));
        }
        self.spare = Some(exchange);
    }

    #[cold]
    fn bad_resume(&self, owner: Option<OwnerId>, source: hypervisor::Error) -> Box<StopReason> {
        let name = owner.and_then(|owner| self.owners.get(owner.index())).map(|(name, _)| name.to_string());
        Box::new(StopReason::BadResume { owner: name.unwrap_or_default(), source })
    }
}

#[inline(never)]
fn set_all(vcpu: &mut dyn Vcpu, registers: &Registers) -> hypervisor::Result<()> {
    registers.regs().map_or(Ok(()), |regs| vcpu.set_regs(regs))?;
    registers.sregs().map_or(Ok(()), |sregs| vcpu.set_sregs(sregs))?;
    registers.debug_regs().map_or(Ok(()), |debug_regs| vcpu.set_debug_regs(debug_regs))
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

#[cold]
fn link_reason(error: LinkError, owner: &str, access: Option<&Access>) -> Box<StopReason> {
    let owner = owner.to_string();
    Box::new(match (error, access) {
        (LinkError::Stopped, _) => StopReason::Asked,
        (LinkError::TimedOut, Some(access)) => StopReason::TimedOut { owner, access: *access },
        (LinkError::HungUp, _) => StopReason::HungUp { owner },
        (LinkError::Fault(source), _) => StopReason::Fault { owner, source },
        (error @ LinkError::TimedOut, None) => StopReason::Fault { owner, source: Box::new(error) },
    })
}
