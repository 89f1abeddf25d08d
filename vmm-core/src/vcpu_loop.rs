//! One vCPU's life: initialised by its owners, then around and around: enter, exit, route, answer.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use hypervisor::{Access, Direction, Exit, GuestState, Vcpu};
use parking_lot::RwLock;

use crate::address_map::AddressMap;
use crate::call_hint::CallHint;
use crate::cgroup::Cgroup;
use crate::channel::Event;
use crate::claim_cache::ClaimCache;
use crate::coalesced::Coalesced;
use crate::control::Control;
use crate::exchange::Exchange;
use crate::gate::Gate;
use crate::link::Link;
use crate::notice::{Notice, Notifier, StopReason};
use crate::owner::OwnerId;
use crate::prediction::{Looks, Predictions};
use crate::routing::HYPERV_OWNER;
use crate::stop_signal::StopSignal;
use crate::unclaimed::{Unclaimed, UnclaimedLog};

/// All that a vCPU's thread has.
pub(crate) struct VcpuLoop {
    pub(crate) vcpu: Box<dyn Vcpu>,
    /// By owner.
    pub(crate) owners: Vec<(Arc<str>, Link)>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) control: Arc<Control>,
    pub(crate) claims: ClaimCache,
    pub(crate) predictions: Predictions,
    /// For the next access: what the last resume came in.
    pub(crate) spare: Option<Box<Exchange>>,
    /// Room for coalesced writes on their way.
    pub(crate) coalesced: Vec<(OwnerId, Access)>,
    pub(crate) unclaimed: UnclaimedLog,
}

/// What the vCPUs of a machine have in common.
pub(crate) struct Shared {
    pub(crate) map: Arc<AddressMap>,
    pub(crate) coalesced: Coalesced,
    pub(crate) gate: Gate,
    pub(crate) stop: StopSignal,
    pub(crate) notifier: Notifier,
    /// How long an owner may take to answer an access.
    pub(crate) exit_timeout: Option<Duration>,
    /// Whether there is a hint.
    pub(crate) has_hint: AtomicBool,
    /// Which access comes with registers attached.
    pub(crate) hint: RwLock<Option<Arc<CallHint>>>,
    /// What each vCPU's thread joins first.
    pub(crate) cgroup: Option<Arc<Cgroup>>,
    /// What becomes of accesses that nobody has reserved. It is set before the start.
    pub(crate) unclaimed: OnceLock<Unclaimed>,
}

/// The error is boxed: it is rare, and large.
pub(crate) type Result<T> = std::result::Result<T, Box<StopReason>>;

impl From<hypervisor::Error> for Box<StopReason> {
    #[cold]
    fn from(error: hypervisor::Error) -> Self {
        Self::new(error.into())
    }
}

impl VcpuLoop {
    /// Runs until the vCPU stops for good, and tells why.
    pub(crate) fn run(mut self) {
        let id = self.vcpu.id();
        let report = Report { notifier: self.shared.notifier.clone(), id, reason: None };
        let reason = match self.live() {
            Ok(never) => match never {},
            Err(reason) => *reason,
        };
        // The vCPU is gone before anyone hears that it has stopped.
        drop(self);
        report.stopped(reason);
    }

    fn live(&mut self) -> Result<Infallible> {
        if let Some(cgroup) = &self.shared.cgroup {
            cgroup.join().map_err(|error| Box::new(StopReason::Thread(error)))?;
        }
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
        let mut unknown = BTreeSet::new();
        loop {
            self.check_stop()?;
            // Looked at where it lies: to move it costs as much as all of this.
            let ran = self.vcpu.run();
            self.tell_coalesced()?;
            match &ran {
                Ok(Exit::Access(access)) if access.direction() == Direction::Write => self.write(access)?,
                Ok(exit @ (Exit::Access(_) | Exit::HypervCall { .. })) => self.see_through(*exit)?,
                _ => self.heed(ran?, &mut unknown)?,
            }
        }
    }

    /// Does what follows from an exit that leaves nothing pending. `unknown` are those of a number that was not known.
    #[cold]
    fn heed(&mut self, exit: Exit, unknown: &mut BTreeSet<u32>) -> Result<()> {
        match exit {
            Exit::Interrupted => self.deliver_pauses(),
            Exit::HypervSynic(write) => self.stand_still(HYPERV_OWNER, Event::HypervSynic(write)),
            Exit::Unknown(reason) => {
                // A guest can make them without end.
                if unknown.insert(reason) {
                    tracing::warn!(vcpu = %self.vcpu.id(), reason, "unknown exit, the vCPU runs on");
                }
                Ok(())
            }
            exit => Err(final_reason(exit, &*self.vcpu).into()),
        }
    }

    fn check_stop(&self) -> Result<()> {
        if self.shared.stop.is_set() { Err(StopReason::Asked.into()) } else { Ok(()) }
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
    #[inline(never)]
    fn stand_still(&mut self, owner: OwnerId, event: Event) -> Result<()> {
        let exchange = self.consult(owner, event, None, Looks::default(), None)?;
        self.apply(owner, exchange)
    }
}

/// What an exit that ends the vCPU ends it for.
pub(crate) fn final_reason(exit: Exit, vcpu: &dyn Vcpu) -> StopReason {
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
pub(crate) fn guest_state(vcpu: &dyn Vcpu) -> Option<Box<GuestState>> {
    match GuestState::of(vcpu) {
        Ok(state) => Some(Box::new(state)),
        Err(error) => {
            tracing::warn!(vcpu = %vcpu.id(), "the guest's last registers are not known: {error}");
            None
        }
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
