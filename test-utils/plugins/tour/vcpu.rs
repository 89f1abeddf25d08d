//! Requests about a vCPU, and the events of one.

use plugin_sdk::{
    Access, AddressSpace, Capability, Connection, Error, Event, State, Vcpu, kvm_cpuid_entry2, kvm_msr_entry,
};
use rustix::io::Errno;

use crate::{CODE, PORTS, POSTED};

/// `IA32_SYSENTER_EIP`, and a number that no MSR has.
const SYSENTER_EIP: u32 = 0x176;
const NO_MSR: u32 = 0x1234_5678;

/// What the pause carries.
const USER: u64 = 0xfeed_f00d;

/// The guest's accesses: it writes 0x41 to the first port, stores it in the logged page, writes it to the doorbell and to
/// the port of posted writes, reads the second port, and writes what it has read to the third.
pub(crate) fn serve(vcpu: &mut Vcpu, connection: &mut Connection, cpuid: &[kvm_cpuid_entry2]) {
    assert!(vcpu.held().is_none());
    let Event::Init(mut init) = vcpu.wait().unwrap() else { panic!("not init") };
    check_state(init.state(), cpuid);
    boot(init.state());
    init.resume().unwrap();

    let Event::Write(mut write) = vcpu.wait().unwrap() else { panic!("not the first write") };
    assert_eq!((write.access(), write.data()), (port(PORTS), &[0x41][..]));
    // All of it came with the event, because of the hint.
    assert_eq!(write.state().regs().unwrap().rax & 0xff, 0x41);
    assert_eq!(write.state().sregs().unwrap().cs.base, 0);
    write.state().debugregs().unwrap();
    connection.pause_vcpus(1, USER).unwrap();
    // Dropped, it comes again.
    let Event::Write(write) = vcpu.wait().unwrap() else { panic!("not the first write again") };
    write.resume().unwrap();

    let Event::Paused(paused) = vcpu.wait().unwrap() else { panic!("not paused") };
    assert_eq!(paused.user(), USER);
    paused.resume().unwrap();

    let Event::Posted(posted) = vcpu.wait().unwrap() else { panic!("not posted") };
    assert_eq!((posted.access, &posted.data[..]), (port(POSTED), &[0x41][..]));

    let Event::Read(mut read) = vcpu.wait().unwrap() else { panic!("not the read") };
    assert_eq!(read.access(), port(PORTS + 1));
    // What is set within the read and what it returns both arrive.
    let mut regs = read.state().regs().unwrap();
    regs.rbx = 0xb0b;
    read.state().set_regs(&regs);
    assert_eq!(read.state().regs().unwrap().rbx, 0xb0b);
    read.answer(&[0x77]).unwrap();

    let Event::Write(mut write) = vcpu.wait().unwrap() else { panic!("not the last write") };
    assert_eq!((write.access(), write.data()), (port(PORTS + 2), &[0x77][..]));
    assert_eq!(write.state().regs().unwrap().rbx, 0xb0b);
}

fn port(address: u64) -> Access {
    Access { space: AddressSpace::Pio, address, length: 1 }
}

fn check_state(state: &mut State<'_>, cpuid: &[kvm_cpuid_entry2]) {
    state.set_cpuid(cpuid).unwrap();

    let mut fpu = state.fpu().unwrap();
    fpu.xmm[3] = *b"sixteen bytes :)";
    state.set_fpu(&fpu).unwrap();
    assert_eq!(state.fpu().unwrap().xmm[3], fpu.xmm[3]);

    let mut debugregs = state.debugregs().unwrap();
    debugregs.db[1] = 0x1234;
    state.set_debugregs(&debugregs);
    assert_eq!(state.debugregs().unwrap().db[1], 0x1234);
    debugregs.dr6 = u64::MAX;
    state.set_debugregs(&debugregs);
    assert_eq!(state.debugregs().unwrap_err().errno(), Some(Errno::INVAL.raw_os_error()));
    assert_eq!(state.debugregs().unwrap().db[1], 0x1234, "the refused ones are forgotten");

    let lapic = state.lapic().unwrap();
    state.set_lapic(&lapic).unwrap();
    let xcrs = state.xcrs().unwrap();
    state.set_xcrs(&xcrs).unwrap();
    let mut events = state.vcpu_events().unwrap();
    events.nmi.masked = 1;
    state.set_vcpu_events(&events).unwrap();
    assert_eq!(state.vcpu_events().unwrap().nmi.masked, 1);
    let mut mp_state = state.mp_state().unwrap();
    mp_state.mp_state = 0;
    state.set_mp_state(&mp_state).unwrap();

    state.set_msrs(&[kvm_msr_entry { index: SYSENTER_EIP, data: 0x5000, ..Default::default() }]).unwrap();
    assert_eq!(state.msrs(&[SYSENTER_EIP, NO_MSR, SYSENTER_EIP]).unwrap(), [0x5000]);

    // Not every kernel has these.
    for result in [state.hyperv_cpuid().map(drop), state.enable_capability(Capability::HypervSynic)] {
        assert!(matches!(result, Ok(()) | Err(Error::Refused { .. })), "{result:?}");
    }
}

fn boot(state: &mut State<'_>) {
    let mut sregs = state.sregs().unwrap();
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    state.set_sregs(&sregs);
    let mut regs = state.regs().unwrap();
    regs.rip = CODE;
    state.set_regs(&regs);
}
