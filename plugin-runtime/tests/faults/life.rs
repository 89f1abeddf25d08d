//! A plugin's life, in which it asks for everything there is.

use std::fmt::Display;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use plugin_sdk::{
    AddressSpace, CallHint, Capability, Connection, Direction, Error, Event, GuestMemory, HintDetail, Irqchip,
    MemoryFlags, Pic, Route, RouteTarget, State, Vcpu, WriteMatch, kvm_cpuid_entry2, kvm_msr_entry,
};
use test_utils::fake::Plugin;
use test_utils::guest::{ENTRY, Program};
use test_utils::raw::{Relay, readable_within};

use crate::EDQUOT;

pub(crate) const PORT: u16 = 0x300;
pub(crate) const POSTED: u16 = 0x310;
pub(crate) const HINTED: u16 = 0x320;
pub(crate) const DONE: u16 = 0x330;

/// What went wrong, in the words of those who were told.
pub(crate) type Told = Mutex<Vec<String>>;

/// An MSR that every backend has: `IA32_SYSENTER_CS`.
const MSR: u32 = 0x174;
/// `KVM_CAP_IRQCHIP`.
const IRQCHIP: u32 = 0;

/// Lives it, from when the VMM has started the plugin, if it does before it is `over`.
pub(crate) fn live(plugin: &Plugin, over: &AtomicBool, told: &Told) {
    let Some((relay, main)) = plugin.accept(|| over.load(Ordering::SeqCst)) else { return };
    let mut vm = Connection::from_fd(main.into());
    let gone = AtomicBool::new(false);
    if let Err(error) = twice(told, || vm.shutdown_eventfd()).and_then(|shutdown| {
        thread::scope(|scope| {
            scope.spawn(|| exit_when_told(&relay, &shutdown, &gone));
            let lived = ask_for_everything(&mut vm, told);
            gone.store(true, Ordering::SeqCst);
            lived
        })
    }) {
        complain(told, &error);
    }
    // It may be gone already.
    let _ = relay.tell("exit 0");
}

/// So that nobody has to be disconnected.
fn exit_when_told(relay: &Relay, shutdown: &OwnedFd, gone: &AtomicBool) {
    while !gone.load(Ordering::SeqCst) {
        if readable_within(shutdown, Duration::from_millis(5)) {
            let _ = relay.tell("exit 0");
            return;
        }
    }
}

fn complain(told: &Told, error: &dyn Display) {
    told.lock().unwrap().push(error.to_string());
}

/// Whatever is refused is tried once more: nothing of the first time may be in the way of the second.
fn twice<T>(told: &Told, mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    attempt().or_else(|error| {
        complain(told, &error);
        attempt()
    })
}

fn ask_for_everything(vm: &mut Connection, told: &Told) -> Result<(), Error> {
    if !twice(told, || vm.check_extension(IRQCHIP))? {
        complain(told, &"the VMM has no KVM_CAP_IRQCHIP");
    }
    let cpuid = twice(told, || vm.supported_cpuid())?;
    twice(told, || vm.emulated_cpuid())?;
    twice(told, || vm.msr_indices())?;
    twice(told, || vm.set_identity_map_address(0))?;
    chips(vm, told)?;
    let mut second = twice(told, || vm.new_connection())?;
    twice(told, || second.reserve_range(AddressSpace::Pio, PORT.into(), 4))?;
    twice(told, || second.reserve_range(AddressSpace::Pio, HINTED.into(), 1))?;
    twice(told, || second.reserve_range(AddressSpace::Pio, DONE.into(), 1))?;
    twice(told, || second.reserve_async_write_range(AddressSpace::Pio, POSTED.into(), 1))?;
    drop(second);

    let memory = GuestMemory::new(0x2000)?;
    let program = Program::new().mov(5).output(PORT, 4).input(PORT, 2);
    memory.write(0, &program.output(POSTED, 1).output(HINTED, 1).output(DONE, 1).code())?;
    let flags = MemoryFlags { dirty_log: true, ..MemoryFlags::default() };
    let _code = twice(told, || vm.map_memory(&memory, 0..0x1000, ENTRY, MemoryFlags::default()))?;
    let logged = twice(told, || vm.map_memory(&memory, 0x1000..0x2000, ENTRY + 0x1000, flags))?;
    let doorbell = twice(told, || vm.create_io_event(AddressSpace::Mmio, 0xf000, WriteMatch::Any))?;
    let irq = twice(told, || vm.create_irq_event(5))?;
    twice(told, || vm.set_irq(5, true))?;
    let target = RouteTarget::Pin { chip: Irqchip::Ioapic, pin: 5 };
    twice(told, || vm.set_irq_routing(&[Route { gsi: 5, target }]))?;
    let details = vec![HintDetail { sregs: true, debugregs: true, ..HintDetail::default() }];
    let address = NonZeroU64::new(HINTED.into()).expect("not 0");
    let hint = CallHint { space: AddressSpace::Pio, address, direction: Direction::Write, details };
    twice(told, || vm.set_call_hint(&hint))?;

    let mut vcpus = twice(told, || vm.vcpus())?;
    // It starts once.
    vm.start()?;
    let [first, second] = &mut vcpus[..] else { panic!("not two vCPUs") };
    second.wait()?.resume()?;
    serve(first, vm, &cpuid, told)?;
    drop(vcpus);

    twice(told, || vm.dirty_log(&logged))?;
    // An id is free also where the kernel refused to undo what it stood for, so there is no second time.
    for done in [vm.unmap(logged), vm.destroy_io_event(doorbell), vm.destroy_irq_event(irq)] {
        done.unwrap_or_else(|error| complain(told, &error));
    }
    Ok(())
}

fn chips(vm: &mut Connection, told: &Told) -> Result<(), Error> {
    let pic = twice(told, || vm.pic(Pic::Primary))?;
    twice(told, || vm.set_pic(Pic::Primary, &pic))?;
    let ioapic = twice(told, || vm.ioapic())?;
    twice(told, || vm.set_ioapic(&ioapic))?;
    let pit = twice(told, || vm.pit())?;
    twice(told, || vm.set_pit(&pit))?;
    let mut clock = twice(told, || vm.clock())?;
    clock.flags = 0;
    twice(told, || vm.set_clock(&clock))
}

/// Puts the vCPU at its program, where it is code that it runs.
fn boot(state: &mut State<'_>, told: &Told) -> Result<(), Error> {
    let mut sregs = twice(told, || state.sregs())?;
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    state.set_sregs(&sregs);
    let mut regs = twice(told, || state.regs())?;
    regs.rip = ENTRY;
    state.set_regs(&regs);
    Ok(())
}

/// Serves a vCPU until the guest is done.
fn serve(vcpu: &mut Vcpu, vm: &mut Connection, cpuid: &[kvm_cpuid_entry2], told: &Told) -> Result<(), Error> {
    loop {
        match vcpu.wait()? {
            Event::Init(mut init) => {
                twice(told, || init.state().set_cpuid(cpuid))?;
                ask_for_all_state(init.state(), told)?;
                boot(init.state(), told)?;
                init.resume()?;
            }
            Event::Write(write) if write.access().address == u64::from(DONE) => return write.resume(),
            Event::Write(mut write) => {
                ask_for_all_state(write.state(), told)?;
                twice(told, || vm.pause_vcpus(1, 7))?;
                write.resume()?;
            }
            Event::Read(mut read) => {
                let regs = twice(told, || read.state().regs())?;
                read.state().set_regs(&regs);
                let data = vec![7; read.access().length];
                read.answer(&data)?;
            }
            other => other.resume()?,
        }
    }
}

fn ask_for_all_state(state: &mut State<'_>, told: &Told) -> Result<(), Error> {
    let regs = twice(told, || state.regs())?;
    state.set_regs(&regs);
    let sregs = twice(told, || state.sregs())?;
    state.set_sregs(&sregs);
    let debugregs = twice(told, || state.debugregs())?;
    state.set_debugregs(&debugregs);
    let fpu = twice(told, || state.fpu())?;
    twice(told, || state.set_fpu(&fpu))?;
    let lapic = twice(told, || state.lapic())?;
    twice(told, || state.set_lapic(&lapic))?;
    let xcrs = twice(told, || state.xcrs())?;
    twice(told, || state.set_xcrs(&xcrs))?;
    let events = twice(told, || state.vcpu_events())?;
    twice(told, || state.set_vcpu_events(&events))?;
    let mp_state = twice(told, || state.mp_state())?;
    twice(told, || state.set_mp_state(&mp_state))?;
    twice(told, || state.msrs(&[MSR]))?;
    twice(told, || state.set_msrs(&[kvm_msr_entry { index: MSR, ..Default::default() }]))?;
    // Not every kernel has these.
    for done in [state.hyperv_cpuid().map(drop), state.enable_capability(Capability::HypervSynic)] {
        match done {
            Err(error @ Error::Refused { .. }) if error.errno() == Some(EDQUOT) => complain(told, &error),
            Ok(()) | Err(Error::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
