//! Timing guest entries without a hook in what is measured: a hypervisor around another.
//!
//! The vCPUs of a [`Metered`] hypervisor take the time whenever they are run; from one run to the next is one whole exit:
//! out of the guest, to the handler that answers, and back. They run only while exits are asked for by their [`Meter`].

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use hypervisor::{
    Access, AddressSpace, Capability, Coalescing, EventFd, Exit, Gsi, GuestMemoryRegion, Hypervisor, IoEvent, Irqs,
    Kick, Pic, Result, Route, SlotId, Vcpu, VcpuId, VcpuState, Vm, VmState, kvm_clock_data, kvm_cpuid_entry2,
    kvm_debugregs, kvm_fpu, kvm_ioapic_state, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pic_state,
    kvm_pit_state2, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use parking_lot::Mutex;

/// More exits than any guest makes.
const ENDLESS: usize = usize::MAX;
/// Samples for which there is room from the start.
const ROOM: usize = 1 << 16;

/// The asking side. When it is dropped, each vCPU's next run is [`Exit::Shutdown`], also that of one that halts.
pub(super) struct Meter {
    vcpus: Vec<Asking>,
    ending: Arc<Ending>,
}

/// The asking side of one vCPU.
struct Asking {
    requests: Sender<usize>,
    samples: Receiver<Vec<u64>>,
}

/// How vCPUs learn that nobody will ask any more.
#[derive(Default)]
struct Ending {
    is_over: AtomicBool,
    kicks: Mutex<Vec<Kick>>,
}

impl Meter {
    /// Lets the first vCPU make `exits` exits: how long each took, in nanoseconds. `None` if the vCPU is gone.
    pub(super) fn block(&self, exits: usize) -> Option<Vec<u64>> {
        let vcpu = self.vcpus.first()?;
        vcpu.requests.send(exits).ok()?;
        vcpu.samples.recv().ok()
    }

    /// Lets all vCPUs together make `exits` exits, each its part: how long until the last was done. `None` if one is gone.
    pub(super) fn together(&self, exits: usize) -> Option<Duration> {
        let part = exits.div_ceil(self.vcpus.len().max(1));
        let begun = Instant::now();
        for vcpu in &self.vcpus {
            vcpu.requests.send(part).ok()?;
        }
        for vcpu in &self.vcpus {
            vcpu.samples.recv().ok()?;
        }
        Some(begun.elapsed())
    }

    /// Lets all vCPUs run on and on. `None` if one is gone.
    pub(super) fn release(&self) -> Option<()> {
        self.vcpus.iter().try_for_each(|vcpu| vcpu.requests.send(ENDLESS)).ok()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.vcpus.clear();
        self.ending.is_over.store(true, Ordering::SeqCst);
        self.ending.kicks.lock().iter().for_each(Kick::kick);
    }
}

/// A hypervisor whose vCPUs are timed.
pub(super) struct Metered {
    inner: Arc<dyn Hypervisor>,
    stopwatches: Arc<Mutex<Vec<Stopwatch>>>,
    first_request: Arc<OnceLock<Instant>>,
}

impl Metered {
    /// Puts a meter to `inner`, for VMs of `vcpus` vCPUs.
    pub(super) fn new(inner: Arc<dyn Hypervisor>, vcpus: NonZeroU32) -> (Self, Meter) {
        let ending = Arc::<Ending>::default();
        let pair = |_| {
            let (request_sender, requests) = bounded(1);
            let (samples, sample_receiver) = bounded(1);
            let stopwatch = Stopwatch { requests, samples, ending: Arc::clone(&ending), block: None };
            (stopwatch, Asking { requests: request_sender, samples: sample_receiver })
        };
        let (stopwatches, asking) = (0..vcpus.get()).map(pair).unzip();
        let metered = Self { inner, stopwatches: Arc::new(Mutex::new(stopwatches)), first_request: Arc::default() };
        (metered, Meter { vcpus: asking, ending })
    }

    /// When memory was first mapped, which is what a plugin asks for first; `None` if it was not.
    pub(super) fn first_request(&self) -> Option<Instant> {
        self.first_request.get().copied()
    }
}

impl Hypervisor for Metered {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn create_vm(&self) -> Result<Arc<dyn Vm>> {
        Ok(Arc::new(MeteredVm {
            inner: self.inner.create_vm()?,
            stopwatches: Arc::clone(&self.stopwatches),
            first_request: Arc::clone(&self.first_request),
        }))
    }

    fn supported_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        self.inner.supported_cpuid()
    }

    fn emulated_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        self.inner.emulated_cpuid()
    }

    fn msr_indices(&self) -> Result<Vec<u32>> {
        self.inner.msr_indices()
    }
}

struct MeteredVm {
    inner: Arc<dyn Vm>,
    /// Each taken by a vCPU, so that its channels end with it.
    stopwatches: Arc<Mutex<Vec<Stopwatch>>>,
    first_request: Arc<OnceLock<Instant>>,
}

impl Vm for MeteredVm {
    fn create_vcpu(&self, id: VcpuId) -> Result<Box<dyn Vcpu>> {
        let inner = self.inner.create_vcpu(id)?;
        Ok(match self.stopwatches.lock().pop() {
            Some(stopwatch) => {
                stopwatch.ending.kicks.lock().push(inner.kick_handle());
                Box::new(MeteredVcpu { inner, stopwatch })
            }
            None => inner,
        })
    }

    fn check_extension(&self, number: u32) -> i32 {
        self.inner.check_extension(number)
    }
    fn set_identity_map_address(&self, address: u64) -> Result<()> {
        self.inner.set_identity_map_address(address)
    }
    fn map_memory(&self, region: GuestMemoryRegion) -> Result<SlotId> {
        self.first_request.get_or_init(Instant::now);
        self.inner.map_memory(region)
    }
    fn unmap_memory(&self, slot: SlotId) -> Result<()> {
        self.inner.unmap_memory(slot)
    }
    fn dirty_log(&self, slot: SlotId) -> Result<Vec<u64>> {
        self.inner.dirty_log(slot)
    }
    fn register_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        self.inner.register_ioevent(at, event)
    }
    fn unregister_ioevent(&self, at: &IoEvent, event: &Arc<EventFd>) -> Result<()> {
        self.inner.unregister_ioevent(at, event)
    }
}

impl Irqs for MeteredVm {
    fn register_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>, resample: &Arc<EventFd>) -> Result<()> {
        self.inner.register_irqfd(gsi, trigger, resample)
    }
    fn unregister_irqfd(&self, gsi: Gsi, trigger: &Arc<EventFd>) -> Result<()> {
        self.inner.unregister_irqfd(gsi, trigger)
    }
    fn set_irq(&self, gsi: Gsi, level: bool) -> Result<()> {
        self.inner.set_irq(gsi, level)
    }
    fn set_routing(&self, routes: &[Route]) -> Result<()> {
        self.inner.set_routing(routes)
    }
}

impl Coalescing for MeteredVm {
    fn coalesce_writes(&self, space: AddressSpace, start: u64, len: u32) -> Result<()> {
        self.inner.coalesce_writes(space, start, len)
    }
    fn stop_coalescing(&self, space: AddressSpace, start: u64, len: u32) -> Result<()> {
        self.inner.stop_coalescing(space, start, len)
    }
    fn has_coalesced(&self) -> bool {
        self.inner.has_coalesced()
    }
    fn take_coalesced(&self, into: &mut Vec<Access>) {
        self.inner.take_coalesced(into);
    }
}

impl VmState for MeteredVm {
    fn pic(&self, which: Pic) -> Result<kvm_pic_state> {
        self.inner.pic(which)
    }
    fn set_pic(&self, which: Pic, state: &kvm_pic_state) -> Result<()> {
        self.inner.set_pic(which, state)
    }
    fn ioapic(&self) -> Result<kvm_ioapic_state> {
        self.inner.ioapic()
    }
    fn set_ioapic(&self, state: &kvm_ioapic_state) -> Result<()> {
        self.inner.set_ioapic(state)
    }
    fn pit(&self) -> Result<kvm_pit_state2> {
        self.inner.pit()
    }
    fn set_pit(&self, state: &kvm_pit_state2) -> Result<()> {
        self.inner.set_pit(state)
    }
    fn clock(&self) -> Result<kvm_clock_data> {
        self.inner.clock()
    }
    fn set_clock(&self, clock: &kvm_clock_data) -> Result<()> {
        self.inner.set_clock(clock)
    }
}

/// The vCPU's side of a [`Meter`].
struct Stopwatch {
    requests: Receiver<usize>,
    samples: Sender<Vec<u64>>,
    ending: Arc<Ending>,
    block: Option<Block>,
}

/// The exits that are being timed.
struct Block {
    samples: Vec<u64>,
    wanted: usize,
    last_entry: Instant,
}

impl Stopwatch {
    /// Takes note of a guest entry. At a block's end it waits for the next; false if there will be none.
    fn enter(&mut self) -> bool {
        if self.ending.is_over.load(Ordering::SeqCst) {
            return false;
        }
        if let Some(block) = &mut self.block {
            let now = Instant::now();
            // An exit takes less than 584 years.
            block.samples.push(now.duration_since(block.last_entry).as_nanos() as u64);
            block.last_entry = now;
            if block.samples.len() < block.wanted {
                return true;
            }
        }
        if let Some(block) = self.block.take()
            && self.samples.send(block.samples).is_err()
        {
            return false;
        }
        let Ok(wanted) = self.requests.recv() else { return false };
        let samples = Vec::with_capacity(wanted.min(ROOM));
        self.block = Some(Block { samples, wanted, last_entry: Instant::now() });
        true
    }
}

struct MeteredVcpu {
    inner: Box<dyn Vcpu>,
    stopwatch: Stopwatch,
}

impl Vcpu for MeteredVcpu {
    fn run(&mut self) -> Result<Exit> {
        if self.stopwatch.enter() { self.inner.run() } else { Ok(Exit::Shutdown) }
    }

    fn id(&self) -> VcpuId {
        self.inner.id()
    }
    fn kick_handle(&self) -> Kick {
        self.inner.kick_handle()
    }
    fn commit(&mut self) -> Result<Exit> {
        self.inner.commit()
    }
    fn answer(&mut self, data: &[u8]) -> Result<()> {
        self.inner.answer(data)
    }
    fn access_data(&self) -> &[u8] {
        self.inner.access_data()
    }
}

impl VcpuState for MeteredVcpu {
    fn regs(&self) -> Result<kvm_regs> {
        self.inner.regs()
    }
    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        self.inner.set_regs(regs)
    }
    fn sregs(&self) -> Result<kvm_sregs> {
        self.inner.sregs()
    }
    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()> {
        self.inner.set_sregs(sregs)
    }
    fn mp_state(&self) -> Result<kvm_mp_state> {
        self.inner.mp_state()
    }
    fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<()> {
        self.inner.set_mp_state(state)
    }
    fn fpu(&self) -> Result<kvm_fpu> {
        self.inner.fpu()
    }
    fn set_fpu(&mut self, fpu: &kvm_fpu) -> Result<()> {
        self.inner.set_fpu(fpu)
    }
    fn debug_regs(&self) -> Result<kvm_debugregs> {
        self.inner.debug_regs()
    }
    fn set_debug_regs(&mut self, regs: &kvm_debugregs) -> Result<()> {
        self.inner.set_debug_regs(regs)
    }
    fn lapic(&self) -> Result<kvm_lapic_state> {
        self.inner.lapic()
    }
    fn set_lapic(&mut self, lapic: &kvm_lapic_state) -> Result<()> {
        self.inner.set_lapic(lapic)
    }
    fn xcrs(&self) -> Result<kvm_xcrs> {
        self.inner.xcrs()
    }
    fn set_xcrs(&mut self, xcrs: &kvm_xcrs) -> Result<()> {
        self.inner.set_xcrs(xcrs)
    }
    fn vcpu_events(&self) -> Result<kvm_vcpu_events> {
        self.inner.vcpu_events()
    }
    fn set_vcpu_events(&mut self, events: &kvm_vcpu_events) -> Result<()> {
        self.inner.set_vcpu_events(events)
    }
    fn msrs(&self, indices: &[u32]) -> Result<Vec<u64>> {
        self.inner.msrs(indices)
    }
    fn set_msrs(&mut self, entries: &[kvm_msr_entry]) -> Result<usize> {
        self.inner.set_msrs(entries)
    }
    fn set_cpuid(&mut self, entries: &[kvm_cpuid_entry2]) -> Result<()> {
        self.inner.set_cpuid(entries)
    }
    fn hyperv_cpuid(&self) -> Result<Vec<kvm_cpuid_entry2>> {
        self.inner.hyperv_cpuid()
    }
    fn enable_capability(&mut self, capability: Capability) -> Result<()> {
        self.inner.enable_capability(capability)
    }
}

#[cfg(test)]
mod tests {
    use hypervisor::mock::{Mock, Script, Step};

    use super::*;

    fn metered() -> (Box<dyn Vcpu>, Meter) {
        let script = Script::forever([Step::Out { port: 1, width: 1 }]);
        let (metered, meter) = Metered::new(Arc::new(Mock::new(script)), NonZeroU32::MIN);
        (metered.create_vm().unwrap().create_vcpu(VcpuId(0)).unwrap(), meter)
    }

    #[test]
    fn each_block_has_the_exits_asked_for_and_an_end_to_asking_is_a_shutdown() {
        let (mut vcpu, meter) = metered();
        let guest = std::thread::spawn(move || {
            let mut exits = 0;
            while vcpu.run().unwrap() != Exit::Shutdown {
                exits += 1;
            }
            exits
        });
        assert_eq!(meter.block(5).unwrap().len(), 5);
        assert_eq!(meter.block(1).unwrap().len(), 1);
        drop(meter);
        assert_eq!(guest.join().unwrap(), 6);
    }

    #[test]
    fn a_block_of_a_vcpu_that_is_gone_is_none() {
        let (vcpu, meter) = metered();
        drop(vcpu);
        assert!(meter.block(1).is_none());
    }

    #[test]
    fn vcpus_that_work_together_share_the_exits() {
        let script = Script::forever([Step::Out { port: 1, width: 1 }]);
        let (metered, meter) = Metered::new(Arc::new(Mock::new(script)), NonZeroU32::new(3).unwrap());
        let vm = metered.create_vm().unwrap();
        let guests: Vec<_> = (0..3)
            .map(|id| {
                let mut vcpu = vm.create_vcpu(VcpuId(id)).unwrap();
                // Runnable: all but the first wait to be started.
                vcpu.set_mp_state(&kvm_mp_state { mp_state: 0 }).unwrap();
                std::thread::spawn(move || {
                    let mut exits = 0;
                    while vcpu.run().unwrap() != Exit::Shutdown {
                        exits += 1;
                    }
                    exits
                })
            })
            .collect();
        assert!(meter.together(30).is_some());
        drop(meter);
        assert_eq!(guests.into_iter().map(|guest| guest.join().unwrap()).collect::<Vec<_>>(), [10; 3]);
    }

    #[test]
    fn a_vcpu_that_halts_ends_with_the_asking() {
        let (metered, meter) = Metered::new(Arc::new(Mock::new(Script::nothing())), NonZeroU32::MIN);
        let vm = metered.create_vm().unwrap();
        let mut vcpu = vm.create_vcpu(VcpuId(0)).unwrap();
        let guest = std::thread::spawn(move || while vcpu.run().unwrap() != Exit::Shutdown {});
        meter.release().unwrap();
        drop(meter);
        guest.join().unwrap();
    }
}
