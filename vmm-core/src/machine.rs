//! A machine: a VM, its address map, and the threads of its vCPUs.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use hypervisor::{AddressSpace, VcpuId, Vm};
use parking_lot::RwLock;

use crate::address_map::{AddressMap, Claim, Service};
use crate::cgroup::Cgroup;
use crate::claim_cache::ClaimCache;
use crate::coalesced::{self, Coalesced};
use crate::error::{Error, Result};
use crate::handler::{ExitHandler, HandlerEnd, HandlerThread, Link, handle_until_stopped};
use crate::notice::{Notices, Notifier};
use crate::owner::OwnerId;
use crate::register_hint::CallHint;
use crate::register_prefetch::RegisterPrefetch;
use crate::stop_signal::StopSignal;
use crate::unclaimed::{Unclaimed, UnclaimedLog};
use crate::vcpu::{Shared, StartBarrier, VcpuHandle, VcpuThread};

/// What a machine is made with.
#[derive(Clone, Debug)]
pub struct Config {
    /// How many vCPUs it has.
    pub vcpus: NonZeroU32,
    /// How long an owner may take to handle an access; `None` for no limit.
    pub exit_timeout: Option<Duration>,
    /// What each vCPU's thread joins before its vCPU runs.
    pub cgroup: Option<Arc<Cgroup>>,
    /// What becomes of the guest's accesses to what nobody has reserved.
    pub unclaimed: Unclaimed,
}

/// A VM that owners attach to and that is then started, once.
///
/// Dropping it stops and joins its vCPUs.
pub struct Machine {
    vm: Arc<dyn Vm>,
    shared: Arc<Shared>,
    handles: Vec<Arc<VcpuHandle>>,
    /// By vCPU, then by owner; taken by the start.
    links: Vec<Vec<(Arc<str>, Link)>>,
    threads: Vec<JoinHandle<()>>,
    /// What each thread that ends with the machine holds, and what tells that none does any more.
    running: Option<Sender<Infallible>>,
    all_ended: Receiver<Infallible>,
    /// Whether a kick may not have had its effect yet.
    kicked: AtomicBool,
    started: bool,
}

/// How soon a kick that had no effect is repeated.
pub const KICK_INTERVAL: Duration = Duration::from_millis(10);
/// How long the end of a machine's threads may take. They need microseconds, and more where the host is overloaded.
pub const JOIN_LIMIT: Duration = Duration::from_secs(10);

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
            start: StartBarrier::new(vcpus),
            stop: StopSignal::new()?,
            notifier,
            exit_timeout: config.exit_timeout,
            has_hint: AtomicBool::new(false),
            hint: RwLock::default(),
            cgroup: config.cgroup.clone(),
            unclaimed: config.unclaimed,
        };
        let (running, all_ended) = crossbeam_channel::bounded(0);
        let machine = Self {
            vm,
            shared: Arc::new(shared),
            handles: (0..vcpus).map(|_| Arc::default()).collect(),
            links: (0..vcpus).map(|_| Vec::new()).collect(),
            threads: Vec::new(),
            running: Some(running),
            all_ended,
            kicked: AtomicBool::new(false),
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
        let timer = || coalesced::start_timer(Arc::clone(&self.shared), self.handles.clone());
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

    /// The signal that makes handlers return.
    pub fn stop_signal(&self) -> &StopSignal {
        &self.shared.stop
    }

    /// How many vCPUs it has.
    pub fn vcpus(&self) -> usize {
        self.handles.len()
    }

    /// Attaches an owner, called `name` in errors, whose exits are handled by the handlers that `make` returns, one for each vCPU.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`]; [`Error::Thread`] where a handler gets no thread of its own: then nobody is attached.
    pub fn attach(
        &mut self,
        name: &str,
        thread: HandlerThread,
        mut make: impl FnMut(VcpuId) -> Box<dyn ExitHandler>,
    ) -> Result<OwnerId> {
        if self.started {
            return Err(Error::AlreadyStarted);
        }
        let name: Arc<str> = name.into();
        let owner = self.next_owner();
        let (mut made, mut threads) = (Vec::new(), Vec::new());
        for vcpu in (0..self.links.len()).map(|index| VcpuId(index as u32)) {
            let stop = self.shared.stop.clone();
            let handler = make(vcpu);
            made.push(match thread {
                HandlerThread::Vcpu => Link::inline(handler, stop),
                HandlerThread::Own => {
                    let (link, end) = Link::threaded(stop);
                    let running = self.running.clone();
                    let thread = thread::Builder::new().name(format!("handler{vcpu}")).spawn(move || {
                        let _running = running;
                        handle_until_stopped(handler, &end);
                    });
                    match thread {
                        Ok(thread) => threads.push(thread),
                        Err(source) => {
                            // The handlers that have started end when their links are dropped.
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

    /// Attaches an owner and returns the handler's end of each vCPU's channel: the caller handles the exits itself.
    ///
    /// # Errors
    ///
    /// [`Error::AlreadyStarted`].
    pub fn attach_ends(&mut self, name: &str) -> Result<(OwnerId, Vec<HandlerEnd>)> {
        if self.started {
            return Err(Error::AlreadyStarted);
        }
        let name: Arc<str> = name.into();
        let owner = self.next_owner();
        let ends = self.links.iter_mut().map(|links| {
            let (link, end) = Link::threaded(self.shared.stop.clone());
            links.push((Arc::clone(&name), link));
            end
        });
        Ok((owner, ends.collect()))
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
        let mut vcpus = Vec::new();
        for ((id, handle), links) in (0..).map(VcpuId).zip(&self.handles).zip(self.links.drain(..)) {
            let vcpu = self.vm.create_vcpu(id)?;
            handle.set_kick(vcpu.kick_handle());
            let (shared, handle) = (Arc::clone(&self.shared), Arc::clone(handle));
            vcpus.push((
                id,
                VcpuThread {
                    vcpu,
                    owners: links,
                    shared,
                    handle,
                    claims: ClaimCache::default(),
                    prefetch: RegisterPrefetch::new(),
                    spare: None,
                    coalesced: Vec::new(),
                    unclaimed: UnclaimedLog::default(),
                },
            ));
        }
        for (vcpu, vcpu_thread) in vcpus {
            let running = self.running.clone();
            let thread = thread::Builder::new().name(format!("vcpu{vcpu}")).spawn(move || {
                // Dropped where the thread panics, too.
                let _running = running;
                vcpu_thread.run();
            });
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

    /// Pauses the vCPUs of `which` for `owner` at their next safe point, with an exit that carries `user`.
    /// A pause not yet delivered is replaced. Before the start it is delivered right after the initialisation.
    pub fn pause(&self, owner: OwnerId, which: impl Fn(VcpuId) -> bool, user: u64) {
        for (id, handle) in (0..).map(VcpuId).zip(&self.handles) {
            if which(id) {
                handle.pause(owner, user);
            }
        }
        self.kicked.store(true, Ordering::Relaxed);
        self.shared.start.notify();
    }

    /// Sets which access has registers attached, and replaces the last such hint.
    pub fn set_call_hint(&self, hint: Option<CallHint>) {
        let mut shared = self.shared.hint.write();
        self.shared.has_hint.store(hint.is_some(), Ordering::SeqCst);
        *shared = hint.map(Arc::new);
    }

    /// Kicks again each vCPU that a pause or the stop has not got out of the guest: whether there is one. A caller that waits for
    /// events calls this again after [`KICK_INTERVAL`] until it returns false.
    pub fn repeat_kicks(&self) -> bool {
        if !self.kicked.load(Ordering::Relaxed) {
            return false;
        }
        // Each is to be kicked, so none is left out.
        let unserved = self.handles.iter().filter(|handle| handle.repeat_kick()).count();
        self.kicked.store(unserved > 0, Ordering::Relaxed);
        unserved > 0
    }

    /// Makes all vCPUs and handlers end, wherever they wait. No vCPU enters the guest again.
    pub fn stop(&self) {
        self.shared.stop.set();
        for handle in &self.handles {
            handle.kick();
        }
        self.kicked.store(true, Ordering::Relaxed);
        self.shared.start.notify();
    }

    /// Stops, and waits until all threads have ended. It gives up as [`join_within`](Self::join_within) does after 10 seconds, and
    /// logs that.
    pub fn join(&mut self) {
        if let Err(error) = self.join_within(JOIN_LIMIT) {
            tracing::error!("{error}");
        }
    }

    /// Stops, and waits until all threads have ended, for `limit` at most. vCPUs that do not leave the guest are kicked again
    /// and again. Threads that have not ended in time are left alone: they hold what they use, and end with the process.
    ///
    /// # Errors
    ///
    /// [`Error::NotStopped`] where some have not; a later call does not wait for those.
    pub fn join_within(&mut self, limit: Duration) -> Result<()> {
        self.stop();
        self.running = None;
        let begun = Instant::now();
        while !self.threads.is_empty() {
            let Err(RecvTimeoutError::Timeout) = self.all_ended.recv_timeout(KICK_INTERVAL) else { break };
            self.repeat_kicks();
            if begun.elapsed() >= limit {
                self.threads.clear();
                return Err(Error::NotStopped { limit });
            }
        }
        join_all(self.threads.drain(..).chain(self.shared.coalesced.timer()));
        Ok(())
    }
}

/// Waits for the ends of the threads of vCPUs or handlers.
fn join_all(threads: impl IntoIterator<Item = JoinHandle<()>>) {
    for thread in threads {
        // The last notice of a vCPU reported its panic.
        let _ = thread.join();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.join();
    }
}
