//! Dispatches an exit to the handler of the owner of its address, and completes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use hypervisor::{Access, Direction, Exit, MAX_ACCESS_BYTES, Vcpu};

use super::thread::{Result, VcpuThread, final_reason, guest_state};
use crate::address_map::{Claim, Service};
use crate::error::LinkError;
use crate::exchange::{Exchange, Registers};
use crate::notice::StopReason;
use crate::owner::OwnerId;
use crate::register_prefetch::RegisterSet;
use crate::stopped::{DeferredRegs, LocalVcpu};
use crate::unclaimed::Unclaimed;
use crate::vcpu_exit::{Action, PostedWrite, VcpuExit};

/// What an access that nobody claimed reads.
static ZEROS: [u8; MAX_ACCESS_BYTES] = [0; MAX_ACCESS_BYTES];

/// The result of a Hyper-V call: 64 bits (Hypervisor Top Level Functional Specification, 3.8).
const HYPERV_RESULT_BYTES: usize = 8;

/// The owner of what the guest sends to Hyper-V. It has no address to be claimed, so it is the owner attached first.
pub(crate) const HYPERV_OWNER: OwnerId = OwnerId::new(0);

impl VcpuThread {
    /// Dispatches a write that is the first access of its instruction.
    #[inline]
    pub(super) fn write(&mut self, access: &Access) -> Result<()> {
        match self.claims.claim_on(&self.shared.map, access.space(), access.address()) {
            Some(Claim { owner, service: Service::Synchronous }) => {
                let exchange = self.handle_access(owner, access, None)?;
                self.apply(owner, exchange)
            }
            Some(Claim { owner, service: Service::PostedWrites }) => {
                let long = if access.has_long_data() { self.vcpu.access_data().into() } else { Box::default() };
                self.post(owner, PostedWrite { access: *access, long })
            }
            None => self.unclaimed(access),
        }
    }

    /// Nobody has reserved `access`.
    #[cold]
    fn unclaimed(&mut self, access: &Access) -> Result<()> {
        let policy = self.shared.unclaimed;
        if policy == Unclaimed::Stop {
            let state = guest_state(&*self.vcpu);
            return Err(StopReason::Unclaimed { access: *access, state }.into());
        }
        self.unclaimed.log(policy, self.vcpu.id(), access);
        Ok(())
    }

    /// Dispatches an exit that waits for data, and all further accesses of its instruction where registers must be set after them.
    pub(super) fn read(&mut self, mut exit: Exit) -> Result<()> {
        let mut deferred = DeferredRegs::default();
        loop {
            let owner = match exit {
                Exit::Access(access) => self.fragment(&access, &mut deferred)?,
                Exit::HypervCall { input, params } => {
                    let exit = VcpuExit::HypervCall { input, params, exchange: self.exchange() };
                    let exchange =
                        self.handle(HYPERV_OWNER, exit, None, RegisterSet::default(), Some(&mut deferred))?;
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

    /// Dispatches one access of an instruction. Returns its owner.
    fn fragment(&mut self, access: &Access, deferred: &mut DeferredRegs) -> Result<Option<OwnerId>> {
        let claim = self.claims.claim_on(&self.shared.map, access.space(), access.address());
        match (claim, access.direction()) {
            (Some(Claim { owner, service: Service::Synchronous }), Direction::Read) => {
                let exchange = self.handle_access(owner, access, Some(deferred))?;
                self.finish_read(exchange, access.len(), deferred)?;
            }
            (_, Direction::Read) => {
                self.unclaimed(access)?;
                self.vcpu.answer(ZEROS.get(..access.len()).unwrap_or_default())?;
            }
            // A write after a read of the same instruction is pending, too.
            (Some(Claim { owner, service: Service::Synchronous }), Direction::Write) if !deferred.is_empty() => {
                let exchange = self.handle_access(owner, access, Some(deferred))?;
                self.defer(exchange, deferred);
            }
            (_, Direction::Write) => self.write(access)?,
        }
        Ok(claim.map(|claim| claim.owner))
    }

    /// Gives a read of `len` bytes the data of the exchange, no more and no less.
    fn finish_read(&mut self, mut exchange: Box<Exchange>, len: usize, deferred: &mut DeferredRegs) -> Result<()> {
        if exchange.data.len() != len {
            exchange.data.resize(len, 0);
        }
        self.vcpu.answer(&exchange.data)?;
        self.defer(exchange, deferred);
        Ok(())
    }

    /// Lets `owner` handle an access, with the registers attached that the hint names or that the owner requested before.
    fn handle_access(
        &mut self,
        owner: OwnerId,
        access: &Access,
        mut deferred: Option<&mut DeferredRegs>,
    ) -> Result<Box<Exchange>> {
        let mut exchange = self.exchange();
        if access.has_long_data() {
            self.attach_data(&mut exchange);
        }
        let mut prefetched = RegisterSet::default();
        let is_hinted = self.shared.has_hint.load(Ordering::SeqCst)
            && self.attach_hinted(access, &mut exchange, deferred.as_deref_mut())?;
        if !is_hinted && self.owners.get(owner.index()).is_some_and(|(_, link)| link.reports_accesses) {
            prefetched = self.prefetch.predict(access);
            if prefetched.any() {
                self.attach(prefetched, &mut exchange, deferred.as_deref_mut())?;
            }
        }
        self.handle(owner, VcpuExit::Access { access: *access, exchange }, Some(access), prefetched, deferred)
    }

    /// An empty exchange, in the box that the last one returned in.
    fn exchange(&mut self) -> Box<Exchange> {
        let mut exchange = self.spare.take().unwrap_or_default();
        exchange.clear();
        exchange
    }

    #[cold]
    fn attach_data(&self, exchange: &mut Exchange) {
        exchange.long.extend_from_slice(self.vcpu.access_data());
    }

    /// Attaches the registers that a hint names for `access`; false where there is no such hint.
    #[inline(never)]
    fn attach_hinted(
        &mut self,
        access: &Access,
        exchange: &mut Exchange,
        deferred: Option<&mut DeferredRegs>,
    ) -> hypervisor::Result<bool> {
        let Some(hint) = self.shared.hint.read().as_ref().filter(|hint| hint.is_about(access)).map(Arc::clone) else {
            return Ok(false);
        };
        let regs = self.vcpu.regs()?;
        let detail = hint.detail(&regs).unwrap_or_default();
        let which = RegisterSet { regs: true, sregs: detail.sregs, debug_regs: detail.debug_regs };
        self.attach(which, exchange, deferred)?;
        Ok(true)
    }

    #[inline(never)]
    fn attach(
        &mut self,
        which: RegisterSet,
        exchange: &mut Exchange,
        deferred: Option<&mut DeferredRegs>,
    ) -> hypervisor::Result<()> {
        let requested = &mut RegisterSet::default();
        let mut vcpu = LocalVcpu { vcpu: &mut *self.vcpu, deferred, requested, prefetch: None };
        vcpu.attach(which, &mut exchange.attached)
    }

    /// Sends `owner` a write that the guest does not wait for.
    fn post(&mut self, owner: OwnerId, write: PostedWrite) -> Result<()> {
        let access = write.access;
        let deadline = self.deadline();
        let Some((name, link)) = self.owners.get_mut(owner.index()) else { return Ok(()) };
        link.post(write, deadline).map_err(|error| link_reason(error, name, Some(&access)))
    }

    /// Sends the writes that were coalesced until now. They were made before the exit that is dispatched next.
    #[inline]
    pub(super) fn post_coalesced(&mut self) -> Result<()> {
        if self.shared.coalesced.any() { self.post_each_coalesced() } else { Ok(()) }
    }

    #[inline(never)]
    fn post_each_coalesced(&mut self) -> Result<()> {
        let mut writes = std::mem::take(&mut self.coalesced);
        self.shared.coalesced.take(&mut writes);
        for (owner, access) in writes.drain(..) {
            // They are short, so all of their bytes are inline.
            self.post(owner, PostedWrite { access, long: Box::default() })?;
        }
        self.coalesced = writes;
        Ok(())
    }

    /// When an access that begins now must be handled.
    fn deadline(&self) -> Option<Instant> {
        self.shared.exit_timeout.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    /// Lets `owner` handle `exit`, until it resumes the vCPU. `prefetched` was attached to the access without a request.
    #[inline(always)]
    pub(super) fn handle(
        &mut self,
        owner: OwnerId,
        exit: VcpuExit,
        access: Option<&Access>,
        prefetched: RegisterSet,
        mut deferred: Option<&mut DeferredRegs>,
    ) -> Result<Box<Exchange>> {
        // Only an access has a time limit.
        let deadline = access.and_then(|_| self.deadline());
        let Some((name, link)) = self.owners.get_mut(owner.index()) else {
            // Reserved for an owner that is not attached: as if nobody had claimed it.
            return Ok(Box::default());
        };
        let mut requested = RegisterSet::default();
        let prefetch = access.filter(|_| link.reports_accesses).map(|access| (&mut self.prefetch, access));
        let vcpu =
            LocalVcpu { vcpu: &mut *self.vcpu, deferred: deferred.as_deref_mut(), requested: &mut requested, prefetch };
        match link.handle(exit, vcpu, deadline) {
            Ok(Action::Resume(exchange)) => {
                link.reports_accesses = exchange.accessed.is_some();
                if prefetched.any() {
                    let accessed = exchange.accessed.unwrap_or_default().union(requested);
                    self.learn(access, prefetched, accessed, deferred);
                }
                Ok(exchange)
            }
            Ok(Action::Stop) => Err(StopReason::Released { owner: name.to_string() }.into()),
            Err(error) => Err(link_reason(error, name, access)),
        }
    }

    /// Notes which of the prefetched registers a handler has accessed.
    #[inline(never)]
    fn learn(
        &mut self,
        access: Option<&Access>,
        prefetched: RegisterSet,
        accessed: RegisterSet,
        deferred: Option<&mut DeferredRegs>,
    ) {
        if let Some(access) = access {
            self.prefetch.note_accesses(access, prefetched, accessed);
        }
        if let Some(deferred) = deferred {
            deferred.forget_unaccessed(prefetched, accessed);
        }
    }

    /// Sets the registers of a resume, in their order.
    pub(super) fn apply(&mut self, owner: OwnerId, exchange: Box<Exchange>) -> Result<()> {
        if exchange.set.present().any() {
            set_all(&mut *self.vcpu, &exchange.set).map_err(|source| self.bad_resume(Some(owner), source))?;
        }
        self.spare = Some(exchange);
        Ok(())
    }

    /// Keeps the registers of a resume until they can be set.
    fn defer(&mut self, exchange: Box<Exchange>, deferred: &mut DeferredRegs) {
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

#[cold]
fn link_reason(error: LinkError, owner: &str, access: Option<&Access>) -> Box<StopReason> {
    let owner = owner.to_string();
    Box::new(match (error, access) {
        (LinkError::Stopped, _) => StopReason::Asked,
        (LinkError::TimedOut, Some(access)) => StopReason::TimedOut { owner, access: *access },
        (LinkError::Disconnected, _) => StopReason::Disconnected { owner },
        (LinkError::Fault(source), _) => StopReason::Fault { owner, source },
        (error @ LinkError::TimedOut, None) => StopReason::Fault { owner, source: Box::new(error) },
    })
}
