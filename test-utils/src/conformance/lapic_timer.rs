//! The timer of the local APIC.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::apics::{HALT, apic_guest, reaches, takes};
use super::*;
use crate::guest::apics::{self, register};
use crate::guest::interrupts;
use crate::kvm::skipped;

/// The timer's vector.
const VECTOR: u8 = 0x41;
/// Bits of its entry.
const PERIODIC: u32 = 1 << 17;
const TSC_DEADLINE_MODE: u32 = 1 << 18;
/// Counts that take 2 ms behind a divisor of 1.
const COUNT: u32 = 2_000_000;
const DIVIDE_BY_1: u32 = 0xb;
const TSC_DEADLINE: u32 = 0x6e0;
/// After which a period of 2 ms is not waited for any more.
const LONG_AFTER_2_MS: Duration = Duration::from_secs(3);

/// A guest with a vector table whose timer has this entry.
fn with(entry: u32) -> Program {
    let program = apics::ready().local(register::DIVISOR, DIVIDE_BY_1);
    program.local(register::TIMER, entry | u32::from(VECTOR)).output(PORT, 1)
}

/// `sti; hlt; cli` and the end of the interrupt.
fn wait(program: Program) -> Program {
    program.code_only(HALT).local(register::END, 0)
}

/// The current count is 0 behind it.
pub fn the_local_timer_interrupts_once(make: Make) {
    let program = wait(with(0).local(register::INITIAL_COUNT, COUNT)).output(PORT, 1);
    let (Guest { mut vcpu, .. }, _) = apic_guest!(make, program);
    takes(&mut *vcpu, VECTOR);
    reaches(&mut *vcpu);
    let lapic = vcpu.lapic().expect("lapic");
    let counts = [register::INITIAL_COUNT, register::CURRENT_COUNT].map(|offset| apics::word(&lapic, offset));
    assert_eq!(counts, [COUNT, 0]);
}

/// Each time its period has passed.
pub fn the_local_timer_interrupts_again_and_again(make: Make) {
    let program = wait(wait(wait(with(PERIODIC).local(register::INITIAL_COUNT, COUNT))));
    let (Guest { mut vcpu, .. }, is_kvm) = apic_guest!(make, program.local(register::INITIAL_COUNT, 0).output(PORT, 1));
    takes(&mut *vcpu, VECTOR);
    let (done, is_done) = mpsc::channel::<()>();
    let kick = vcpu.kick_handle();
    let impatient = thread::spawn(move || {
        if is_done.recv_timeout(LONG_AFTER_2_MS) == Err(RecvTimeoutError::Timeout) {
            kick.kick();
        }
    });
    let second = vcpu.run().expect("run");
    drop(done);
    impatient.join().expect("the thread that kicks");
    if second == Exit::Interrupted && is_kvm {
        skipped("the_local_timer_interrupts_again_and_again", &"this KVM's periodic timer interrupts once");
        return;
    }
    assert!(
        matches!(second, Exit::Access(access) if access.address() == u64::from(interrupts::HANDLER_PORT)),
        "{second:?}"
    );
    takes(&mut *vcpu, VECTOR);
    reaches(&mut *vcpu);
}

/// The current count goes down, and stops with the timer.
pub fn the_local_timers_count_goes_down(make: Make) {
    let program = with(0).local(register::INITIAL_COUNT, u32::MAX).output(PORT, 1);
    let (Guest { mut vcpu, .. }, _) = apic_guest!(make, program.local(register::INITIAL_COUNT, 0).output(PORT, 1));
    reaches(&mut *vcpu);
    let count = apics::word(&vcpu.lapic().expect("lapic"), register::CURRENT_COUNT);
    assert!((1..u32::MAX).contains(&count), "{count}");
    reaches(&mut *vcpu);
    assert_eq!(apics::word(&vcpu.lapic().expect("lapic"), register::CURRENT_COUNT), 0);
}

/// By the time-stamp counter, where the backend has that.
pub fn the_local_timer_interrupts_at_its_deadline(make: Make) {
    let [a, b, c, d] = TSC_DEADLINE.to_le_bytes();
    // rdtsc; add eax, 0x200000; adc edx, 0; mov ecx, TSC_DEADLINE; wrmsr
    let arm = [0x0f, 0x31, 0x66, 0x05, 0, 0, 0x20, 0, 0x66, 0x83, 0xd2, 0, 0x66, 0xb9, a, b, c, d, 0x0f, 0x30];
    // mov ecx, TSC_DEADLINE; rdmsr; mov dx, PORT; out dx, eax
    let read = [0x66, 0xb9, a, b, c, d, 0x0f, 0x32];
    let program = apics::ready().output(PORT, 1).local(register::TIMER, TSC_DEADLINE_MODE | u32::from(VECTOR));
    let program = wait(program.code_only(&arm)).code_only(&read).output(PORT, 4);
    let Some(hypervisor) = make(&program) else { return };
    let mut guest = Guest::new(&*hypervisor, &program);
    let cpuid = hypervisor.supported_cpuid().expect("supported_cpuid");
    guest.vcpu.set_cpuid(&cpuid).expect("set_cpuid");
    apics::prepare(&mut guest);
    if guest.vm.check_extension(kvm_bindings::KVM_CAP_TSC_DEADLINE_TIMER) <= 0 {
        skipped("the_local_timer_interrupts_at_its_deadline", &"the backend lacks the deadline mode");
        return;
    }
    reaches(&mut *guest.vcpu);
    takes(&mut *guest.vcpu, VECTOR);
    expect_write(&mut *guest.vcpu, AddressSpace::Pio, PORT.into(), &[0; 4]);
}
