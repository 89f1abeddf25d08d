//! A machine: a VM, its address map, and the threads of its vCPUs.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hypervisor::{AddressSpace, VcpuId, Vm};
use parking_lot::RwLock;

use crate::address_map::{AddressMap, Claim, Service};
use crate::call_hint::CallHint;
use crate::cgroup::Cgroup;
use crate::channel::FarEnd;
use crate::claim_cache::ClaimCache;
use crate::coalesced::{self, Coalesced};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::gate::Gate;
use crate::link::Link;
use crate::notice::{Notices, Notifier};
use crate::owner::OwnerId;
use crate::prediction::Predictions;
use crate::pump::{Pump, Stepping, step_until_stopped};
use crate::stop_signal::StopSignal;
use crate::unclaimed::{Unclaimed, UnclaimedLog};
use crate::vcpu_loop::{Shared, VcpuLoop};

/// What a machine is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many vCPUs it has.
    pub vcpus: NonZeroU32,
    /// How long an owner may take to answer an access; `None` for as long as it likes.
    pub exit_timeout: Option<Duration>,
    /// What each vCPU's thread joins before its vCPU runs.
    pub cgroup: Option<Arc<Cgroup>>,
}

/// A VM that owners attach to and that is then started, once.
///
/// Dropping it stops and joins its vCPUs.
pub struct Machine {
    vm: Arc<dyn Vm>,
    shared: Arc<Shared>,
    controls: Vec<Arc<Control>>,
    /// By vCPU, then by owner; taken by the start.
    links: Vec<Vec<(Arc<str>, Link)>>,
    threads: Vec<JoinHandle<()>>,
    started: bool,
}

impl Machine {
    /// A machine around `vm`, which has no vCPUs yet.
    ///
    /// # Errors
    ///
    /// [`Error::EventFd`] where the system gives none.
    pub fn new(vm: Arc<dyn Vm>, config: &Config) -> Result<(Self, Notices)> {
        let (notifier, notices) = Notifier::new()?;
        let vcpus = config.vcpus.get() as usize;
        let map: Arc<AddressMap> = Arc::default();
        let shared = Shared {
            coalesced: Coalesced::new(Arc::clone(&vm), Arc::clone(&map)),
            map,
            gate: Gate::new(vcpus),
            stop: StopSignal::new()?,
            notifier,
            exit_timeout: config.exit_timeout,
            has_hint: AtomicBool::new(false),
            hint: RwLock::default(),
            cgroup: config.cgroup.clone(),
            unclaimed: OnceLock::new(),
        };
        let machine = Self {
            vm,
            shared: Arc::new(shared),
            controls: (0..vcpus).map(|_| Arc::default()).collect(),
            links: (0..vcpus).map(|_| Vec::new()).collect(),
            threads: Vec::new(),
            started: false,
        };
        Ok((machine, notices))
    }

    /// The VM itself.
    pub fn vm(&self) -> &Arc<dyn Vm> {
        &self.vm
    }

    /// Who owns which addresses. It may be changed at any time; what was [reserved coalesced](Self::reserve_coalesced) is
    /// [released](Self::release) by the machine.
    pub fn map(&self) -> &Arc<AddressMap> {
        &self.shared.map
    }

    /// Reserves a range as [`AddressMap::reserve`] does, for `owner`, whose writes are [posted](Service::PostedWrites), and
    /// coalesced where the backend can do that: many of them come for less than the cost of one exit.
    ///
    /// Of a machine with one vCPU they come in the guest's order, also with its other exits; with several, no order is promised,
    /// nor on which vCPU's link they come. They come within some 10 ms.
    ///
    /// # Errors
    ///
    /// As those of [`AddressMap::reserve`].
    pub fn reserve_coalesced(&self, space: AddressSpace, start: u64, len: u64, owner: OwnerId) -> Result<()> {
        self.shared.map.reserve(space, start, len, Claim { owner, service: Service::PostedWrites })?;
        let timer = || coalesced::start_timer(Arc::clone(&self.shared), self.controls.clone());
        self.shared.coalesced.add(space, start, len, timer);
        Ok(())
    }

    /// Ends `owner`'s reservation that begins exactly at `start`, of whichever kind. Posted writes that were made before are
    /// still its own.
    ///
    /// # Errors
    ///
    /// As those of [`AddressMap::release`].
    pub fn release(&self, space: AddressSpace, start: u64, owner: OwnerId) -> Result<()> {
        let range = self.shared.map.range_around(space, start);
        if range.is_some_and(|(first, _, claim)| first == start && claim.owner == owner) {
            self.shared.coalesced.remove(space, start);
        }
        self.shared.map.release(space, start, owner)
    }

    /// The signal that tells pumps to return.
    pub fn stop_signal(&self) -> &StopSignal {
        &self.shared.stop
    }

    /// How many vCPUs it has.
    pub fn vcpus(&self) -> usize {
        self.controls.len()
    }

    /// Attaches an owner, called `name` in errors, whose exits the pumps that `make` gives carry, one a vCPU.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`]; [`Error::Thread`] where a pump of its own thread gets none: then nobody is attached.
    pub fn attach(
        &mut self,
        name: &str,
        stepping: Stepping,
        mut make: impl FnMut(VcpuId) -> Box<dyn Pump>,
    ) -> Result<OwnerId> {
        if self.started {
            return Err(Error::AlreadyStarted);
        }
        let name: Arc<str> = name.into();
        let owner = self.next_owner();
        let (mut made, mut threads) = (Vec::new(), Vec::new());
        for vcpu in (0..self.links.len()).map(|index| VcpuId(index as u32)) {
            let stop = self.shared.stop.clone();
            let pump = make(vcpu);
            made.push(match stepping {
                Stepping::Inline => Link::inline(pump, stop),
                Stepping::Threaded => {
                    let signal = stop.clone();
                    let (link, far) = Link::threaded(stop);
                    let thread = thread::Builder::new()
                        .name(format!("pump{vcpu}"))
                        .spawn(move || step_until_stopped(pump, &far, &signal));
                    match thread {
                        Ok(thread) => threads.push(thread),
                        Err(source) => {
                            // Without their links the pumps that have begun end.
                            drop(made);
                            join_all(threads);
                            return Err(Error::Thread { vcpu, source });
                        }
                    }
                    link
                }
            });
        }
        for (links, link) in self.links.iter_mut().zip(made) {
            links.push((Arc::clone(&name), link));
        }
        self.threads.extend(threads);
        Ok(owner)
    }

    /// Attaches an owner and hands out the far ends of its channels, one a vCPU, for the caller to stand at.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`].
    pub fn attach_far_ends(&mut self, name: &str) -> Result<(OwnerId, Vec<FarEnd>)> {
        if self.started {
            return Err(Error::AlreadyStarted);
        }
        let name: Arc<str> = name.into();
        let owner = self.next_owner();
        let far_ends = self.links.iter_mut().map(|links| {
            let (link, far) = Link::threaded(self.shared.stop.clone());
            links.push((Arc::clone(&name), link));
            far
        });
        Ok((owner, far_ends.collect()))
    }

    fn next_owner(&self) -> OwnerId {
        OwnerId::new(self.links.first().map_or(0, Vec::len))
    }

    /// Makes the vCPUs and starts their threads. Each is given to every owner to initialise; when all are, all run.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`]; [`Error::Backend`] or [`Error::Thread`] where a vCPU cannot be had: then none runs.
    pub fn start(&mut self) -> Result<()> {
        if self.started {
            return Err(Error::AlreadyStarted);
        }
        self.started = true;
        let mut loops = Vec::new();
        for ((id, control), links) in (0..).map(VcpuId).zip(&self.controls).zip(self.links.drain(..)) {
            let vcpu = self.vm.create_vcpu(id)?;
            control.set_kick(vcpu.kick_handle());
            let (shared, control) = (Arc::clone(&self.shared), Arc::clone(control));
            loops.push((
                id,
                VcpuLoop {
                    vcpu,
                    owners: links,
                    shared,
                    control,
                    claims: ClaimCache::default(),
                    predictions: Predictions::new(),
                    spare: None,
                    coalesced: Vec::new(),
                    unclaimed: UnclaimedLog::default(),
                },
            ));
        }
        for (vcpu, vcpu_loop) in loops {
            let thread = thread::Builder::new().name(format!("vcpu{vcpu}")).spawn(move || vcpu_loop.run());
            match thread {
                Ok(thread) => self.threads.push(thread),
                Err(source) => {
                    self.stop();
                    return Err(Error::Thread { vcpu, source });
                }
            }
        }
        Ok(())
    }

    /// Makes the vCPUs of `which` stand still for `owner` at their next safe point, with an event that carries `user`.
    /// A pause not yet delivered is replaced. Before the start it is delivered right after the initialisation.
    pub fn pause(&self, owner: OwnerId, which: impl Fn(VcpuId) -> bool, user: u64) {
        for (id, control) in (0..).map(VcpuId).zip(&self.controls) {
            if which(id) {
                control.pause(owner, user);
            }
        }
        self.shared.gate.poke();
    }

    /// Sets what becomes of accesses that nobody has reserved; without it they are [ignored](Unclaimed::Ignore). The first
    /// call counts.
    pub fn set_unclaimed(&self, policy: Unclaimed) {
        self.shared.unclaimed.get_or_init(|| policy);
    }

    /// Says which access is to come with registers attached, in place of what was said before.
    pub fn set_call_hint(&self, hint: Option<CallHint>) {
        let mut shared = self.shared.hint.write();
        self.shared.has_hint.store(hint.is_some(), Ordering::SeqCst);
        *shared = hint.map(Arc::new);
    }

    /// Tells all vCPUs and pumps to end, wherever they wait. None enters the guest again.
    pub fn stop(&self) {
        self.shared.stop.set();
        for control in &self.controls {
            control.kick();
        }
        self.shared.gate.poke();
    }

    /// Stops, and waits until all threads have ended.
    pub fn join(&mut self) {
        self.stop();
        join_all(self.threads.drain(..).chain(self.shared.coalesced.timer()));
    }
}

/// Waits for the ends of threads of vCPUs or pumps.
fn join_all(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        // A vCPU's panic was told by its last notice.
        let _ = thread.join();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.join();
    }
}
