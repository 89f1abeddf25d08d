//! A machine's whole life, with everything in it that can fail.

use std::fmt::Display;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use hypervisor::mock::{Mock, Script, Step};
use hypervisor::{
    AddressSpace, Direction, EventFd, Exit, Gsi, GuestAddress, GuestMemoryRegion, Hypervisor, IoEvent, Pic, Route,
    SlotId, SynicWrite, VcpuId, Vm,
};
use test_utils::memory;
use test_utils::wait::LIMIT;
use vmm_core::{
    CallHint, Cgroup, Claim, Config, Error, HandlerThread, HintDetail, Machine, Notice, Notices, OwnerId, Service,
    StopReason,
};

use crate::asker::{Asker, Told};

const PORT: u16 = 0x300;
const HINTED: u16 = 0x310;
const POSTED: u16 = 0x320;
/// The last bytes of a page that nobody backs.
const STRADDLE: u64 = 0xdffe;
/// `KVM_CAP_IRQCHIP`.
const IRQCHIP: u32 = 0;

/// A backend whose first vCPU makes every kind of exit, and the second one.
pub(crate) fn scripted() -> Mock {
    Mock::with(|vcpu| {
        let port = [Step::Mov(5), Step::Out { port: PORT, width: 4 }];
        let more = [
            Step::In { port: PORT, width: 2 },
            Step::Load { address: STRADDLE, width: 4 },
            Step::Store { address: STRADDLE, width: 4 },
            Step::Outs { port: PORT, data: vec![9; 100] },
            Step::Out { port: POSTED, width: 1 },
            Step::Out { port: HINTED, width: 1 },
            Step::In { port: HINTED, width: 1 },
            Step::HypervCall { input: 1, params: [2, 3] },
            Step::Exit(Exit::HypervSynic(SynicWrite { msr: 0x4000_0080, control: 1, evt_page: 0, msg_page: 0 })),
            Step::Exit(Exit::Shutdown),
        ];
        Script::once(port.into_iter().chain(more.into_iter().filter(|_| vcpu == VcpuId(0))))
    })
}

/// Lives it, with its vCPUs in a control group: all that anybody was told of as failed.
pub(crate) fn scenario(hypervisor: &dyn Hypervisor, group: &Path) -> Vec<String> {
    let told = Arc::default();
    if let Err(error) = live(hypervisor, group, &told) {
        told.complain(&error);
    }
    told.complaints()
}

/// Whatever fails to be made is tried once more: nothing of the first time may be in the way of the second.
fn twice<T, E: Display>(told: &Arc<Told>, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    attempt().or_else(|error| {
        told.complain(&error);
        attempt()
    })
}

fn live(hypervisor: &dyn Hypervisor, group: &Path, told: &Arc<Told>) -> Result<(), Error> {
    twice(told, || hypervisor.supported_cpuid())?;
    twice(told, || hypervisor.emulated_cpuid())?;
    twice(told, || hypervisor.msr_indices())?;
    let vm = twice(told, || hypervisor.create_vm())?;
    if vm.check_extension(IRQCHIP) <= 0 {
        told.complain(&"KVM_CHECK_EXTENSION: no capability, os error 122");
    }
    twice(told, || vm.set_identity_map_address(0))?;
    chips(&*vm, told)?;

    let cgroup = Some(Arc::new(twice(told, || Cgroup::open(group))?));
    let config = Config {
        vcpus: NonZeroU32::new(2).unwrap(),
        exit_timeout: Some(LIMIT),
        cgroup,
        unclaimed: vmm_core::Unclaimed::default(),
    };
    let (mut machine, notices) = twice(told, || Machine::new(Arc::clone(&vm), &config))?;
    let make = |_| Box::new(Asker::new(told)) as Box<dyn vmm_core::ExitHandler>;
    let inline = twice(told, || machine.attach("inline", HandlerThread::Vcpu, make))?;
    let threaded = twice(told, || machine.attach("threaded", HandlerThread::Own, make))?;
    reserve(&machine, inline, threaded)?;
    machine.set_call_hint(Some(CallHint {
        space: AddressSpace::Pio,
        address: HINTED.into(),
        direction: Direction::Write,
        details: vec![HintDetail { sregs: true, debug_regs: true, ..HintDetail::default() }],
    }));
    let objects = Objects::make(&*vm, told)?;
    machine.pause(inline, |_| true, 1);
    machine.start()?;
    run_to_its_end(&mut machine, &notices, told);
    objects.unmake(&*vm, told)
}

fn chips(vm: &dyn Vm, told: &Arc<Told>) -> Result<(), Error> {
    let pic = twice(told, || vm.pic(Pic::Primary))?;
    twice(told, || vm.set_pic(Pic::Primary, &pic))?;
    let ioapic = twice(told, || vm.ioapic())?;
    twice(told, || vm.set_ioapic(&ioapic))?;
    let pit = twice(told, || vm.pit())?;
    twice(told, || vm.set_pit(&pit))?;
    let clock = twice(told, || vm.clock())?;
    Ok(twice(told, || vm.set_clock(&hypervisor::kvm_clock_data { clock: clock.clock, ..Default::default() }))?)
}

fn reserve(machine: &Machine, inline: OwnerId, threaded: OwnerId) -> Result<(), Error> {
    let claim = |owner, service| Claim { owner, service };
    let map = machine.map();
    map.reserve(AddressSpace::Pio, PORT.into(), 4, claim(inline, Service::Synchronous))?;
    map.reserve(AddressSpace::Pio, HINTED.into(), 4, claim(threaded, Service::Synchronous))?;
    map.reserve(AddressSpace::Pio, POSTED.into(), 4, claim(threaded, Service::PostedWrites))?;
    map.reserve(AddressSpace::Mmio, STRADDLE & !0xfff, 0x2000, claim(inline, Service::Synchronous))
}

/// Memory, an interrupt and a doorbell.
struct Objects {
    slots: [SlotId; 2],
    doorbell: (IoEvent, Arc<EventFd>),
    trigger: Arc<EventFd>,
}

const LINE: Gsi = Gsi(5);

impl Objects {
    fn make(vm: &dyn Vm, told: &Arc<Told>) -> Result<Self, Error> {
        let memfd = memory::sealed_memfd(0x4000);
        let region = |start, read_only| {
            let memfd = memfd.try_clone().expect("dup");
            let region = GuestMemoryRegion::new(GuestAddress(start), memfd, 0, 0x4000).expect("a region");
            region.read_only(read_only).log_dirty(!read_only)
        };
        let slots = [
            twice(told, || vm.map_memory(region(0x1000, false)))?,
            twice(told, || vm.map_memory(region(0x8000, true)))?,
        ];
        let event = || {
            let event = twice(told, || EventFd::new(0).map_err(|error| format!("the test's eventfd: {error}")));
            Arc::new(event.expect("an eventfd"))
        };
        let at = IoEvent::new(AddressSpace::Mmio, 0xf000, 4, None).expect("a doorbell");
        let doorbell = (at, event());
        twice(told, || vm.register_ioevent(&doorbell.0, &doorbell.1))?;
        let (trigger, resample) = (event(), event());
        twice(told, || vm.register_irqfd(LINE, &trigger, &resample))?;
        twice(told, || vm.set_routing(&[Route::Irqchip { gsi: LINE, chip: 0, pin: 5 }]))?;
        twice(told, || vm.set_irq(LINE, true))?;
        Ok(Self { slots, doorbell, trigger })
    }

    fn unmake(self, vm: &dyn Vm, told: &Arc<Told>) -> Result<(), Error> {
        twice(told, || vm.dirty_log(self.slots[0]))?;
        twice(told, || vm.unregister_ioevent(&self.doorbell.0, &self.doorbell.1))?;
        twice(told, || vm.unregister_irqfd(LINE, &self.trigger))?;
        for slot in self.slots {
            twice(told, || vm.unmap_memory(slot))?;
        }
        Ok(())
    }
}

/// Waits until the first vCPU has shut down, or one has failed, and for what the others say until they are gone: one that
/// came late may fail on its way to the end.
fn run_to_its_end(machine: &mut Machine, notices: &Notices, told: &Arc<Told>) {
    let reason = loop {
        if let Notice::Stopped(_, reason) = notices.channel.recv_timeout(LIMIT).expect("a vCPU stops") {
            break reason;
        }
    };
    if !reason.is_failure() && told.initialisations() != 4 {
        told.complain(&format!("the guest ran, initialised {} times", told.initialisations()));
    }
    machine.join();
    let others = notices.channel.try_iter().filter_map(|notice| match notice {
        Notice::Stopped(_, reason) => Some(reason),
        Notice::Started(_) | Notice::Paused(_) => None,
    });
    [reason].into_iter().chain(others).filter(StopReason::is_failure).for_each(|reason| told.complain(&reason));
}
