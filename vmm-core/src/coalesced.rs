//! Posted writes that the backend coalesces: the guest makes many of them for less than one exit.
//!
//! They are told when some vCPU has come out of the guest, before its own exit is looked at, by that vCPU; so those of a
//! machine with one vCPU are in the guest's order, also with its other exits. With several, each is told once and no more
//! is promised, since the backend does not know whose they were.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::RecvTimeoutError;
use hypervisor::{Access, AddressSpace, Vm};
use parking_lot::Mutex;

use crate::address_map::{AddressMap, Service};
use crate::owner::OwnerId;
use crate::vcpu::{Shared, VcpuHandle};

/// How long a coalesced write waits at most until some vCPU is fetched from the guest to tell of it.
const PERIOD: Duration = Duration::from_millis(10);

/// A write that an owner is to be told of.
type Told = (OwnerId, Access);

/// The ranges whose writes are coalesced, and what was taken of them.
pub(crate) struct Coalesced {
    vm: Arc<dyn Vm>,
    map: Arc<AddressMap>,
    /// Whether there ever was a range: without, an exit costs one look here.
    used: AtomicBool,
    /// Whether there may be something in `left`. Set before it is moved there.
    has_left: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// Lengths in bytes, by their beginnings.
    ranges: BTreeMap<(AddressSpace, u64), u32>,
    /// Taken when their range was given up, and told of by nobody yet.
    left: Vec<Told>,
    taken: Vec<Access>,
    timer: Option<JoinHandle<()>>,
}

impl Coalesced {
    pub(crate) fn new(vm: Arc<dyn Vm>, map: Arc<AddressMap>) -> Self {
        Self { vm, map, used: AtomicBool::new(false), has_left: AtomicBool::new(false), inner: Mutex::default() }
    }

    /// Coalesces the writes to a range that is reserved for posted ones. They are posted one by one where the backend cannot.
    pub(crate) fn add(
        &self,
        space: AddressSpace,
        start: u64,
        len: u64,
        timer: impl FnOnce() -> io::Result<JoinHandle<()>>,
    ) {
        let mut inner = self.inner.lock();
        let added = u32::try_from(len).map_err(|_| "it is longer than 4 GiB".to_owned()).and_then(|len| {
            if inner.timer.is_none() {
                inner.timer = Some(timer().map_err(|error| format!("starting its timer: {error}"))?);
            }
            self.used.store(true, Ordering::SeqCst);
            self.vm.coalesce_writes(space, start, len).map_err(|error| error.to_string())?;
            inner.ranges.insert((space, start), len);
            Ok(())
        });
        if let Err(error) = added {
            tracing::debug!(%space, start, len, error, "writes to a range are posted one by one, they cannot be coalesced");
        }
    }

    /// Coalesces the writes to the range no longer, if they were. What was coalesced so far is its owner's still: the range must
    /// not have been released yet.
    pub(crate) fn remove(&self, space: AddressSpace, start: u64) {
        let mut inner = self.inner.lock();
        let Some(len) = inner.ranges.remove(&(space, start)) else { return };
        if let Err(error) = self.vm.stop_coalescing(space, start, len) {
            tracing::debug!(%space, start, len, %error, "writes to a range that was given up are still coalesced");
        }
        self.has_left.store(true, Ordering::SeqCst);
        let inner = &mut *inner;
        self.take_into(&mut inner.taken, &mut inner.left);
    }

    /// Whether there is something to tell. It costs next to nothing where no range was ever coalesced.
    pub(crate) fn any(&self) -> bool {
        // In this order: what is no longer there was announced as left before.
        self.used.load(Ordering::SeqCst) && (self.vm.has_coalesced() || self.has_left.load(Ordering::SeqCst))
    }

    /// Puts the writes to be told of into `told`, which is empty.
    pub(crate) fn take(&self, told: &mut Vec<Told>) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        told.append(&mut inner.left);
        self.has_left.store(false, Ordering::SeqCst);
        self.take_into(&mut inner.taken, told);
    }

    fn take_into(&self, taken: &mut Vec<Access>, told: &mut Vec<Told>) {
        self.vm.take_coalesced(taken);
        // One whose range is gone, or is no longer of that kind, is nobody's: it came while that changed.
        told.extend(taken.drain(..).filter_map(|access| {
            let claim = self.map.claim_on(access.space(), access.address())?;
            (claim.service == Service::PostedWrites).then_some((claim.owner, access))
        }));
    }

    /// The thread that is to have been ended before the machine is gone.
    pub(crate) fn timer(&self) -> Option<JoinHandle<()>> {
        self.inner.lock().timer.take()
    }
}

/// Fetches the vCPUs from the guest as long as writes wait there that nobody exits behind.
pub(crate) fn start_timer(shared: Arc<Shared>, handles: Vec<Arc<VcpuHandle>>) -> io::Result<JoinHandle<()>> {
    let fetch = move || {
        while shared.stop.channel().recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
            if shared.coalesced.any() {
                handles.iter().for_each(|handle| handle.kick());
            }
        }
    };
    thread::Builder::new().name("coalesced".into()).spawn(fetch)
}
