//! A request that the VMM refuses fails under its own name with the VMM's errno, and the channel stays usable.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod support;

use std::num::NonZeroU64;
use std::os::fd::AsFd;

use plugin_proto::messages::main_response::Message as Response;
use plugin_proto::messages::vcpu_response;
use plugin_sdk::{
    AddressSpace, CallHint, Capability, Connection, Direction, Error, Event, GuestMemory, MemoryFlags, Pic, State,
    WriteMatch,
};
use rustix::event::{EventfdFlags, eventfd};
use support::{FakeVcpu, FakeVmm};

const EPERM: i32 = 1;

fn assert_refused(name: &str, error: &Error) {
    let Error::Refused { request, .. } = error else {
        panic!("{name}: {error}");
    };
    assert_eq!((*request, error.errno()), (name, Some(EPERM)));
    assert!(error.to_string().contains(name), "{error}");
}

/// A request and a call that makes it.
type MainCall = (&'static str, fn(&mut Connection) -> Result<(), Error>);
type VcpuCall = (&'static str, fn(&mut State<'_>) -> Result<(), Error>);

const MAIN: &[MainCall] = &[
    ("new_connection", |c| c.new_connection().map(drop)),
    ("get_shutdown_eventfd", |c| c.shutdown_eventfd().map(drop)),
    ("check_extension", |c| c.check_extension(1).map(drop)),
    ("get_supported_cpuid", |c| c.supported_cpuid().map(drop)),
    ("get_emulated_cpuid", |c| c.emulated_cpuid().map(drop)),
    ("get_msr_index_list", |c| c.msr_indices().map(drop)),
    ("get_net_config", |c| c.net_config().map(drop)),
    ("reserve_range", |c| c.reserve_range(AddressSpace::Pio, 1, 1)),
    ("reserve_range", |c| c.reserve_async_write_range(AddressSpace::Pio, 1, 1)),
    ("reserve_range", |c| c.reserve_coalesced_write_range(AddressSpace::Pio, 1, 1)),
    ("release_range", |c| c.release_range(AddressSpace::Pio, 1)),
    ("set_irq", |c| c.set_irq(1, true)),
    ("set_irq_routing", |c| c.set_irq_routing(&[])),
    ("get_state of the first PIC", |c| c.pic(Pic::Primary).map(drop)),
    ("get_state of the IOAPIC", |c| c.ioapic().map(drop)),
    ("get_state of the PIT", |c| c.pit().map(drop)),
    ("get_state of the clock", |c| c.clock().map(drop)),
    ("set_state of the second PIC", |c| c.set_pic(Pic::Secondary, &Default::default())),
    ("set_state of the IOAPIC", |c| c.set_ioapic(&Default::default())),
    ("set_state of the PIT", |c| c.set_pit(&Default::default())),
    ("set_state of the clock", |c| c.set_clock(&Default::default())),
    ("set_identity_map_addr", |c| c.set_identity_map_address(0x1000)),
    ("pause_vcpus", |c| c.pause_vcpus(1, 1)),
    ("negotiate", |c| c.vcpus().map(drop)),
    ("start", Connection::start),
    ("set_call_hint", |c| {
        let address = NonZeroU64::MIN;
        c.set_call_hint(&CallHint { space: AddressSpace::Pio, address, direction: Direction::Read, details: vec![] })
    }),
    ("set_call_hint", Connection::remove_call_hint),
    ("create_io_event", |c| c.create_io_event(AddressSpace::Pio, 1, WriteMatch::Any).map(drop)),
    ("create_irq_event", |c| c.create_irq_event(1).map(drop)),
    ("create_memory", |c| {
        c.map_memory(&GuestMemory::new(0x1000).unwrap(), 0..0x1000, 0, MemoryFlags::default()).map(drop)
    }),
];

#[test]
fn every_request_about_the_vm() {
    let (vmm, mut connection) = FakeVmm::new();
    for (name, call) in MAIN {
        vmm.refuse(EPERM);
        assert_refused(name, &call(&mut connection).unwrap_err());
        vmm.request();
    }
    vmm.answer(Response::Start(Default::default()), &[]);
    connection.start().unwrap();
}

#[test]
fn requests_about_objects() {
    let (vmm, mut connection) = FakeVmm::new();
    let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let memory = GuestMemory::new(0x1000).unwrap();
    vmm.answer(Response::Create(Default::default()), &[]);
    vmm.answer(Response::Create(Default::default()), &[event.as_fd()]);
    vmm.answer(Response::Create(Default::default()), &[event.as_fd(), event.as_fd()]);
    let mapped = connection.map_memory(&memory, 0..0x1000, 0, MemoryFlags::default()).unwrap();
    let io_event = connection.create_io_event(AddressSpace::Pio, 1, WriteMatch::Any).unwrap();
    let irq_event = connection.create_irq_event(1).unwrap();
    for _ in 0..4 {
        vmm.refuse(EPERM);
    }
    assert_refused("dirty_log", &connection.dirty_log(&mapped).unwrap_err());
    assert_refused("destroy", &connection.unmap(mapped).unwrap_err());
    assert_refused("destroy", &connection.destroy_io_event(io_event).unwrap_err());
    assert_refused("destroy", &connection.destroy_irq_event(irq_event).unwrap_err());
}

const VCPU: &[VcpuCall] = &[
    ("get_state of regs", |s| s.regs().map(drop)),
    ("get_state of sregs", |s| s.sregs().map(drop)),
    ("get_state of debugregs", |s| s.debugregs().map(drop)),
    ("get_state of fpu", |s| s.fpu().map(drop)),
    ("get_state of lapic", |s| s.lapic().map(drop)),
    ("get_state of mp_state", |s| s.mp_state().map(drop)),
    ("get_state of xcrs", |s| s.xcrs().map(drop)),
    ("get_state of vcpu_events", |s| s.vcpu_events().map(drop)),
    ("set_state of fpu", |s| s.set_fpu(&Default::default())),
    ("set_state of lapic", |s| s.set_lapic(&Default::default())),
    ("set_state of mp_state", |s| s.set_mp_state(&Default::default())),
    ("set_state of xcrs", |s| s.set_xcrs(&Default::default())),
    ("set_state of vcpu_events", |s| s.set_vcpu_events(&Default::default())),
    ("get_msrs", |s| s.msrs(&[0x10]).map(drop)),
    ("set_msrs", |s| s.set_msrs(&[])),
    ("set_cpuid", |s| s.set_cpuid(&[])),
    ("get_hyperv_cpuid", |s| s.hyperv_cpuid().map(drop)),
    ("enable_capability", |s| s.enable_capability(Capability::HypervSynic)),
];

#[test]
fn every_request_about_a_vcpu() {
    let (fake, mut vcpu) = FakeVcpu::new();
    fake.init();
    let Ok(Event::Init(mut init)) = vcpu.wait() else {
        panic!("another event");
    };
    fake.request();
    for (name, call) in VCPU {
        fake.refuse(EPERM);
        assert_refused(name, &call(init.state()).unwrap_err());
        fake.request();
    }
    fake.answer(vcpu_response::Message::SetCpuid(Default::default()));
    init.state().set_cpuid(&[]).unwrap();
    fake.request();
    init.resume().unwrap();
    fake.resume();
}

#[test]
fn an_answer_to_another_request_is_an_error() {
    for (_, call) in MAIN {
        let (vmm, mut connection) = FakeVmm::new();
        vmm.answer(Response::Destroy(Default::default()), &[]);
        assert!(matches!(call(&mut connection), Err(Error::Unexpected { .. })));
    }
    for (_, call) in VCPU {
        let (fake, mut vcpu) = FakeVcpu::new();
        fake.init();
        let mut event = vcpu.wait().unwrap();
        fake.request();
        fake.answer(vcpu_response::Message::Wait(Default::default()));
        assert!(matches!(call(event.state().unwrap()), Err(Error::Unexpected { .. })));
    }
}
