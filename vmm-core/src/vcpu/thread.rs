//! The thread of one vCPU: its owners initialise it, then it runs: enter the guest, dispatch the exit, enter again.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hypervisor::{Access, Direction, Exit, GuestState, Vcpu};
use parking_lot::RwLock;

use super::dispatch::HYPERV_OWNER;
use super::handle::VcpuHandle;
use super::start_barrier::StartBarrier;
use crate::address_map::AddressMap;
use crate::cgroup::Cgroup;
use crate::claim_cache::ClaimCache;
use crate::coalesced::Coalesced;
use crate::exchange::Exchange;
use crate::handler::Link;
use crate::notice::{Notice, Notifier, StopReason};
use crate::owner::OwnerId;
use crate::register_hint::CallHint;
use crate::register_prefetch::{RegisterPrefetch, RegisterSet};
use crate::stop_signal::StopSignal;
use crate::unclaimed::{Unclaimed, UnclaimedLog};
use crate::vcpu_exit::VcpuExit;

/// All that the thread of a vCPU has.
pub(crate) struct VcpuThread {
    pub(crate) vcpu: Box<dyn Vcpu>,
    /// By owner.
    pub(crate) owners: Vec<(Arc<str>, Link)>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) handle: Arc<VcpuHandle>,
    pub(crate) claims: ClaimCache,
    pub(crate) prefetch: RegisterPrefetch,
    /// For the next access: the box of the last resume.
    pub(crate) spare: Option<Box<Exchange>>,
    /// A buffer for coalesced writes.
    pub(crate) coalesced: Vec<(OwnerId, Access)>,
    pub(crate) unclaimed: UnclaimedLog,
}

/// What the vCPUs of a machine have in common.
pub(crate) struct Shared {
    pub(crate) map: Arc<AddressMap>,
    pub(crate) coalesced: Coalesced,
    pub(crate) start: StartBarrier,
    pub(crate) stop: StopSignal,
    pub(crate) notifier: Notifier,
    /// How long an owner may take to handle an access.
    pub(crate) exit_timeout: Option<Duration>,
    /// Whether there is a hint.
    pub(crate) has_hint: AtomicBool,
    /// Which access has registers attached.
    pub(crate) hint: RwLock<Option<Arc<CallHint>>>,
    /// What each vCPU's thread joins first.
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    /// What becomes of accesses that nobody has reserved.
    pub(crate) unclaimed: Unclaimed,
}

/// The error is boxed: it is rare, and large.
pub(super) type Result<T> = std::result::Result<T, Box<StopReason>>;

impl From<hypervisor::Error> for Box<StopReason> {
    #[cold]
    fn from(error: hypervisor::Error) -> Self {
        Self::new(error.into())
    }
}

impl VcpuThread {
    /// Runs until the vCPU ends, and reports why.
    pub(crate) fn run(mut self) {
        let id = self.vcpu.id();
        let report = Report { notifier: self.shared.notifier.clone(), id, reason: None };
        let reason = match self.live() {
            Ok(never) => match never {},
            Err(reason) => *reason,
        };
        // The vCPU is dropped before its end is reported.
        drop(self);
        report.stopped(reason);
    }

    fn live(&mut self) -> Result<Infallible> {
        if let Some(cgroup) = &self.shared.cgroup {
            cgroup.join().map_err(|error| Box::new(StopReason::Thread(error)))?;
        }
        for index in 0..self.owners.len() {
            self.stop_for(OwnerId::new(index), VcpuExit::Init)?;
        }
        self.deliver_pauses()?;
        self.shared.start.arrive();
        let shared = Arc::clone(&self.shared);
        while !shared.start.wait(|| shared.stop.is_set() || self.handle.has_pause()) {
            self.check_stop()?;
            self.deliver_pauses()?;
        }
        self.shared.notifier.send(Notice::Started(self.vcpu.id()));
        let mut unknown = BTreeSet::new();
        loop {
            self.check_stop()?;
            // Matched in place: moving an exit costs as much as the rest of this loop.
            let ran = self.vcpu.run();
            self.post_coalesced()?;
            match &ran {
                Ok(Exit::Access(access)) if access.direction() == Direction::Write => self.write(access)?,
                Ok(exit @ (Exit::Access(_) | Exit::HypervCall { .. })) => self.read(*exit)?,
                _ => self.other_exit(ran?, &mut unknown)?,
            }
        }
    }

    /// Handles an exit that leaves nothing pending. `unknown` are the numbers of unknown exits so far.
    #[cold]
    fn other_exit(&mut self, exit: Exit, unknown: &mut BTreeSet<u32>) -> Result<()> {
        match exit {
            Exit::Interrupted => self.deliver_pauses(),
            Exit::HypervSynic(write) => self.stop_for(HYPERV_OWNER, VcpuExit::HypervSynic(write)),
            Exit::Unknown(reason) => {
                // A guest can make them without end.
                if unknown.insert(reason) {
                    tracing::warn!(vcpu = %self.vcpu.id(), reason, "unknown exit, the vCPU resumes");
                }
                Ok(())
            }
            exit => Err(final_reason(exit, &*self.vcpu).into()),
        }
    }

    fn check_stop(&self) -> Result<()> {
        if self.shared.stop.is_set() { Err(StopReason::Asked.into()) } else { Ok(()) }
    }

    /// Delivers the pending pauses. Called only at safe points, where no access is pending.
    fn deliver_pauses(&mut self) -> Result<()> {
        while let Some((owner, user)) = self.handle.take_pause() {
            self.shared.notifier.send(Notice::Paused(self.vcpu.id()));
            self.stop_for(owner, VcpuExit::Paused { user })?;
        }
        Ok(())
    }

    /// Stops at a safe point until `owner` resumes the vCPU.
    #[inline(never)]
    fn stop_for(&mut self, owner: OwnerId, exit: VcpuExit) -> Result<()> {
        let exchange = self.handle(owner, exit, None, RegisterSet::default(), None)?;
        self.apply(owner, exchange)
    }
}

/// Why an exit ends the vCPU.
pub(super) fn final_reason(exit: Exit, vcpu: &dyn Vcpu) -> StopReason {
    let state = || guest_state(vcpu);
    match exit {
        Exit::Halted => StopReason::Halted,
        Exit::Shutdown => StopReason::Shutdown { state: state() },
        Exit::InternalError(error) => StopReason::InternalError { error, state: state() },
        Exit::EntryFailed(reason) => StopReason::EntryFailed { reason, state: state() },
        Exit::Access(_) | Exit::HypervCall { .. } | Exit::HypervSynic(_) | Exit::Interrupted | Exit::Unknown(_) => {
            StopReason::Asked
        }
    }
}

/// The registers of a vCPU whose guest cannot go on. Why it cannot is known without them.
#[cold]
pub(super) fn guest_state(vcpu: &dyn Vcpu) -> Option<Box<GuestState>> {
    match GuestState::of(vcpu) {
        Ok(state) => Some(Box::new(state)),
        Err(error) => {
            tracing::warn!(vcpu = %vcpu.id(), "the guest's last registers are not known: {error}");
            None
        }
    }
}

/// Reports that the vCPU ended, also when its thread panics.
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
