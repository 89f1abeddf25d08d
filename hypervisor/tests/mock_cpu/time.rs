//! Timers, time stamps and the clock they read.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hypervisor::mock::{Clock, Lockstep};
use hypervisor::{Access, Direction, Exit, Gsi, Irqs, Vcpu, VmState, kvm_clock_data};

use super::*;

/// Nanoseconds of 1000 counts at 1,193,182 a second, rounded down.
const THOUSAND: Duration = Duration::from_nanos(838_095);

/// The port that the guest tells numbers at.
const PORT: u8 = 0x10;
/// The vector of pin 0 of the first PIC, and of pin 5.
const PIT_VECTOR: u8 = 0x20;
const DEVICE_VECTOR: u8 = 0x25;
/// The vector of the local APIC's timer.
const TIMER_VECTOR: u8 = 0x41;
/// Bits of the timer's entry.
const PERIODIC: u32 = 1 << 17;
const DEADLINE: u32 = 1 << 18;
/// Registers of the local APIC, by a segment that begins there.
const END: u16 = 0xb0;
const SPURIOUS: u16 = 0xf0;
const TIMER: u16 = 0x320;
const INITIAL_COUNT: u16 = 0x380;
const CURRENT_COUNT: u16 = 0x390;
const DIVISOR: u16 = 0x3e0;
const TSC_DEADLINE: u32 = 0x6e0;

const STI: &[u8] = &[0xfb];
const HLT: &[u8] = &[0xf4];
/// hlt; jmp to it
const HALT_FOR_EVER: &[u8] = &[0xf4, 0xeb, 0xfd];

/// `mov al, value; out port, al`, one after the other.
fn outputs(writes: &[(u8, u8)]) -> Vec<u8> {
    writes.iter().flat_map(|&(port, value)| [0xb0, value, 0xe6, port]).collect()
}

/// mov dword fs:[register], value
fn local(register: u16, value: u32) -> Vec<u8> {
    [&[0x66, 0x64, 0xc7, 0x06][..], &register.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// The local APIC on, its timer with this entry and a divisor of 1.
fn timer(entry: u32) -> Vec<u8> {
    [local(SPURIOUS, 0x1ff), local(TIMER, entry | u32::from(TIMER_VECTOR)), local(DIVISOR, 0xb)].concat()
}

/// mov ecx, index; mov eax, low; mov edx, high; wrmsr
fn wrmsr(index: u32, value: u64) -> Vec<u8> {
    let [low, high] = [value as u32, (value >> 32) as u32].map(u32::to_le_bytes);
    [&[0x66, 0xb9][..], &index.to_le_bytes(), &[0x66, 0xb8], &low, &[0x66, 0xba], &high, &[0x0f, 0x30]].concat()
}

/// rdtsc; out PORT, eax
const TELL_TIME: &[u8] = &[0x0f, 0x31, 0x66, 0xe7, PORT];

/// The first PIC with these pins open, vectors from 0x20 on, and the automatic end.
fn pic(mask: u8) -> Vec<u8> {
    outputs(&[(0x20, 0x11), (0x21, PIT_VECTOR), (0x21, 4), (0x21, 3), (0x21, mask)])
}

/// The PIT's first channel with this mode and count.
fn pit(mode: u8, count: u16) -> Vec<u8> {
    let [low, high] = count.to_le_bytes();
    outputs(&[(0x43, 0x30 | mode << 1), (0x40, low), (0x40, high)])
}

/// A machine whose FS begins at its local APIC. Handlers of vectors count in BX; the local APIC's ends its interrupt.
fn machine(code: &[Vec<u8>]) -> Machine {
    with_handlers(Machine::new(&code.concat()))
}

fn with_handlers(mut machine: Machine) -> Machine {
    machine.set_sregs(|sregs| sregs.fs.base = 0xfee0_0000);
    write_handlers(|address, data| machine.write(address, data));
    machine
}

fn write_handlers(write: impl Fn(u64, &[u8])) {
    for (vector, address) in [(PIT_VECTOR, 0x5000_u16), (DEVICE_VECTOR, 0x5080), (TIMER_VECTOR, 0x5100)] {
        write(u64::from(vector) * 4, &[&address.to_le_bytes()[..], &[0, 0]].concat());
        let end = if vector == TIMER_VECTOR { local(END, 0) } else { Vec::new() };
        // inc bx or, for the device, inc si; iret
        let count = if vector == DEVICE_VECTOR { 0x46 } else { 0x43 };
        write(address.into(), &[&[count][..], &end, &[0xcf]].concat());
    }
}

/// The numbers that the guest tells up to where nothing wakes it any more.
fn told(machine: &mut Machine) -> Vec<u32> {
    let mut numbers = Vec::new();
    loop {
        match machine.vcpu.run_to(&[]).unwrap() {
            Stop::Exit(Exit::Access(access)) if is_told(&access) => {
                numbers.push(u32::from_le_bytes(machine.vcpu.access_data().try_into().unwrap()));
            }
            Stop::Idle => return numbers,
            other => panic!("{other:?} {:?}", machine.regs()),
        }
    }
}

fn is_told(access: &Access) -> bool {
    access.address() == u64::from(PORT) && access.direction() == Direction::Write
}

/// A guest with interrupts from the PIT alone, 1000 counts in mode 2, and a clock that the test moves; it halts.
fn held() -> Machine {
    let machine = machine(&[pic(0xfe), pit(2, 1000), STI.into(), HALT_FOR_EVER.into()]);
    machine.vm.advance(Duration::ZERO);
    machine
}

#[test]
fn no_interrupt_comes_before_its_time() {
    let mut machine = held();
    assert_eq!(machine.run().rbx, 0);
    machine.vm.advance(THOUSAND - Duration::from_nanos(1));
    assert_eq!(machine.run().rbx, 0);
    machine.vm.advance(Duration::from_nanos(1));
    assert_eq!(machine.run().rbx, 1);
    assert_eq!(machine.run().rbx, 1);
}

#[test]
fn a_long_time_has_all_its_interrupts() {
    let mut machine = held();
    machine.run();
    machine.vm.advance(5 * THOUSAND);
    assert_eq!(machine.run().rbx, 5);
}

#[test]
fn a_one_shot_timer_interrupts_a_halted_vcpu_once() {
    let start = [timer(0), STI.into(), local(INITIAL_COUNT, 1_000_000), TELL_TIME.into()];
    let mut machine = machine(&[start.concat(), HLT.into(), TELL_TIME.into(), HALT_FOR_EVER.into()]);
    let [armed, woken] = told(&mut machine)[..] else { panic!("two times") };
    assert_eq!(machine.regs().rbx, 1);
    // mov, then rdtsc and out; after the expiry hlt's handler: inc, mov, iret.
    assert!((999_995..1_000_010).contains(&(woken - armed)), "{armed} {woken}");
}

#[test]
fn a_periodic_timer_interrupts_once_a_period() {
    // again: hlt; rdtsc; out; cmp bx, 5; jb again; mask the timer; hlt
    let again = [HLT, TELL_TIME, &[0x83, 0xfb, 0x05, 0x72, 0xf5]].concat();
    let start = [timer(PERIODIC), STI.into(), local(INITIAL_COUNT, 250_000)];
    let mut machine = machine(&[start.concat(), again, local(INITIAL_COUNT, 0), HALT_FOR_EVER.into()]);
    let times = told(&mut machine);
    assert_eq!((times.len(), machine.regs().rbx), (5, 5));
    for pair in times.windows(2) {
        assert!((249_990..250_010).contains(&(pair[1] - pair[0])), "{times:?}");
    }
}

#[test]
fn a_deadline_interrupts_when_the_time_stamp_has_come_to_it() {
    let start = [timer(DEADLINE), STI.into(), wrmsr(0x10, 5_000_000), wrmsr(TSC_DEADLINE, 6_000_000)];
    let mut machine = machine(&[start.concat(), HLT.into(), TELL_TIME.into(), HALT_FOR_EVER.into()]);
    let [woken] = told(&mut machine)[..] else { panic!("one time") };
    assert_eq!(machine.regs().rbx, 1);
    assert!((6_000_000..6_000_010).contains(&woken), "{woken}");
    assert_eq!(machine.vcpu.msrs(&[TSC_DEADLINE]).unwrap(), [0], "it is disarmed");
}

#[test]
fn a_running_vcpu_is_interrupted_after_so_many_instructions() {
    // again: inc cx; jmp again. The handler: out PORT, ecx
    let start = [timer(0), STI.into(), local(INITIAL_COUNT, 1001)];
    let machine = machine(&[start.concat(), vec![0x41, 0xeb, 0xfd]]);
    machine.write(0x5100, &[0x66, 0x89, 0xc8, 0x66, 0xe7, PORT]);
    let run = |mut machine: Machine, leads: bool| {
        machine.set(|regs| regs.rcx = 0);
        let exit = if leads {
            let Stop::Exit(exit) = machine.vcpu.run_to(&[]).unwrap() else { panic!() };
            exit
        } else {
            machine.vcpu.run().unwrap()
        };
        assert!(matches!(exit, Exit::Access(access) if is_told(&access)), "{exit:?}");
        u32::from_le_bytes(machine.vcpu.access_data().try_into().unwrap())
    };
    // A batch of a run ends at the timer, so that both come to the same instruction.
    assert_eq!(run(machine, false), 500);
    let again = self::machine(&[start.concat(), vec![0x41, 0xeb, 0xfd]]);
    again.write(0x5100, &[0x66, 0x89, 0xc8, 0x66, 0xe7, PORT]);
    assert_eq!(run(again, true), 500);
}

#[test]
fn the_current_count_goes_down_with_the_time_stamp() {
    // mov eax, fs:[CURRENT_COUNT]; out PORT, eax
    let tell_count = [&[0x66, 0x64, 0xa1][..], &CURRENT_COUNT.to_le_bytes(), &[0x66, 0xe7, PORT]].concat();
    let code = [timer(0), local(INITIAL_COUNT, 1000), tell_count.clone(), tell_count, HLT.into()];
    let mut machine = machine(&code);
    // The write that starts it counts, and so does `out`.
    assert_eq!(told(&mut machine), [999, 997]);
}

#[test]
fn a_guest_that_calibrates_finds_one_frequency() {
    // 11932 counts of the PIT are 10 ms; the local APIC's timer counts down meanwhile.
    let start = [pic(0xfe), timer(0), local(INITIAL_COUNT, u32::MAX), STI.into(), pit(0, 11_932), TELL_TIME.into()];
    let tell_count = [&[0x66, 0x64, 0xa1][..], &CURRENT_COUNT.to_le_bytes(), &[0x66, 0xe7, PORT]].concat();
    let code = [start.concat(), HLT.into(), TELL_TIME.into(), tell_count, local(INITIAL_COUNT, 0), HLT.into()];
    let mut machine = machine(&code);
    let [armed, woken, count] = told(&mut machine)[..] else { panic!("three numbers") };
    assert!((10_000_100..10_000_200).contains(&(woken - armed)), "{armed} {woken}");
    let counted = u32::MAX - count;
    assert!((10_000_100..10_000_300).contains(&counted), "{counted}");
}

#[test]
fn ticks_that_wake_nobody_do_not_keep_the_thread_busy() {
    let mut machine = machine(&[pic(0xff), pit(2, 1000), STI.into(), HALT_FOR_EVER.into()]);
    assert_eq!(machine.run().rbx, 0, "it comes back");
}

#[test]
fn the_clock_does_not_jump_over_work_of_a_device() {
    // The timer is minutes away; the device interrupts by pin 5.
    let start = [pic(0xdf), timer(0), local(DIVISOR, 0xa), local(INITIAL_COUNT, u32::MAX)];
    let tell_si = [0x89, 0xf0, 0x66, 0xe7, PORT];
    let tell_bx = [0x89, 0xd8, 0x66, 0xe7, PORT];
    let ask = [0xe6, 0x11];
    let code =
        [&start.concat()[..], &[0x66, 0x31, 0xc0], &ask, STI, HLT, &tell_si, HLT, &tell_bx, HALT_FOR_EVER].concat();
    let mock = Mock::guest_code();
    let work = mock.outstanding_work();
    let vm = Arc::new(mock.create_soft_vm().unwrap());
    let (region, ram) = memory::region(0, RAM_LEN);
    memory::write_at(&ram, ENTRY, &code);
    write_handlers(|address, data| memory::write_at(&ram, address, data));
    vm.map_memory(region).unwrap();
    let mut vcpu = vm.create_soft_vcpu(VcpuId(0)).unwrap();
    test_utils::guest::boot(&mut vcpu);
    let mut sregs = vcpu.sregs().unwrap();
    sregs.fs.base = 0xfee0_0000;
    vcpu.set_sregs(&sregs).unwrap();
    let mut regs = vcpu.regs().unwrap();
    regs.rsp = 0x8000;
    vcpu.set_regs(&regs).unwrap();

    let Exit::Access(request) = vcpu.run().unwrap() else { panic!("a request") };
    assert_eq!(request.address(), 0x11);
    let token = work.begin();
    let device = thread::spawn({
        let vm = Arc::clone(&vm);
        move || {
            vm.set_irq(Gsi(5), true).unwrap();
            drop(token);
        }
    });
    let guest = thread::spawn(move || {
        assert!(matches!(vcpu.run().unwrap(), Exit::Access(_)));
        assert_eq!(vcpu.access_data(), [1, 0, 0, 0], "the device's interrupt came first");
        assert!(matches!(vcpu.run().unwrap(), Exit::Access(_)));
        assert_eq!(vcpu.access_data(), [1, 0, 0, 0], "then the clock jumped to the timer");
    });
    test_utils::wait::join("the device", device);
    test_utils::wait::join("the guest", guest);
}

#[test]
fn vcpus_in_lockstep_take_their_timers_at_the_same_instructions() {
    let run = || {
        let vm = Mock::guest_code().create_soft_vm().unwrap();
        let (region, ram) = memory::region(0, RAM_LEN);
        // The first is interrupted by PIT and timer while it counts, the second halts between its own timer's
        // interrupts. again: mov cx, 50; loop to itself; rdtsc; out; jmp again
        let count = [&[0xb9, 50, 0, 0xe2, 0xfe][..], TELL_TIME, &[0xeb, 0xf4]].concat();
        let first = [pic(0xfe), pit(2, 300), timer(PERIODIC), local(INITIAL_COUNT, 210_000), STI.into(), count];
        let wait = [HLT, TELL_TIME, &[0xeb, 0xf8]].concat();
        let second = [timer(PERIODIC), local(INITIAL_COUNT, 330_000), STI.into(), wait].concat();
        memory::write_at(&ram, ENTRY, &first.concat());
        memory::write_at(&ram, 0x3000, &second);
        write_handlers(|address, data| memory::write_at(&ram, address, data));
        vm.map_memory(region).unwrap();
        let vcpus = [(0, ENTRY), (1, 0x3000)].map(|(id, rip)| {
            let mut vcpu = vm.create_soft_vcpu(VcpuId(id)).unwrap();
            test_utils::guest::boot(&mut vcpu);
            let mut sregs = vcpu.sregs().unwrap();
            sregs.fs.base = 0xfee0_0000;
            vcpu.set_sregs(&sregs).unwrap();
            let stack = 0x8000 + 0x1000 * u64::from(id);
            vcpu.set_regs(&kvm_regs { rip, rsp: stack, rflags: 2, ..Default::default() }).unwrap();
            vcpu
        });
        let mut lockstep = Lockstep::new(vcpus.into(), NonZeroU32::new(17).unwrap());
        let mut trace = Vec::new();
        // The first tells the time every 54 instructions.
        for _ in 0..15_000 {
            let (id, stop) = lockstep.run().unwrap();
            trace.push((id, stop, lockstep.vcpus()[id.index()].regs().unwrap()));
        }
        trace
    };
    let first = run();
    let counts = [0, 1].map(|id| first.iter().rev().find(|(vcpu, ..)| *vcpu == VcpuId(id)).unwrap().2.rbx);
    assert!(counts[0] >= 5 && counts[1] >= 2, "{counts:?}");
    assert!(first == run() && first == run());
}

#[test]
fn vcpus_on_threads_that_all_halt_are_woken_by_their_timers() {
    const TICKS: u8 = 100;
    let vm = Mock::guest_code().create_soft_vm().unwrap();
    let (region, ram) = memory::region(0, RAM_LEN);
    write_handlers(|address, data| memory::write_at(&ram, address, data));
    vm.map_memory(region).unwrap();
    let vcpus: Vec<_> = (0..3)
        .map(|id| {
            // again: hlt; cmp bx, TICKS; jb again; out PORT, al
            let again = [0xf4, 0x83, 0xfb, TICKS, 0x72, 0xfa, 0xe6, PORT];
            let entry = ENTRY + 0x200 * u64::from(id);
            let period = 1_000_000 + 100_000 * id;
            let code = [timer(PERIODIC), local(INITIAL_COUNT, period), STI.into(), again.into()].concat();
            memory::write_at(&ram, entry, &code);
            let mut vcpu = vm.create_soft_vcpu(VcpuId(id)).unwrap();
            test_utils::guest::boot(&mut vcpu);
            let mut sregs = vcpu.sregs().unwrap();
            sregs.fs.base = 0xfee0_0000;
            vcpu.set_sregs(&sregs).unwrap();
            let stack = 0x8000 + 0x1000 * u64::from(id);
            vcpu.set_regs(&kvm_regs { rip: entry, rsp: stack, rflags: 2, ..Default::default() }).unwrap();
            vcpu
        })
        .collect();
    // A vCPU that is ready to run keeps the clock from jumping.
    let run = |mut vcpu: SoftVcpu| thread::spawn(move || assert!(matches!(vcpu.run().unwrap(), Exit::Access(_))));
    for thread in vcpus.into_iter().map(run).collect::<Vec<_>>() {
        test_utils::wait::join("a vCPU that ticks", thread);
    }
    // The slowest needs this long, and nobody else keeps the clock from it.
    let now = vm.clock().unwrap().clock;
    assert!((120_000_000..125_000_000).contains(&now), "{now}");
}

#[test]
fn the_hosts_clock_wakes_a_vcpu_too() {
    let mock = Mock::guest_code().with_clock(Clock::Host);
    let code = [timer(PERIODIC), STI.into(), local(INITIAL_COUNT, 300_000), HLT.into(), HLT.into(), TELL_TIME.into()];
    let mut machine = with_handlers(Machine::on(&mock, &code.concat()));
    let guest = thread::spawn(move || {
        assert!(matches!(machine.vcpu.run().unwrap(), Exit::Access(_)));
        let told = u32::from_le_bytes(machine.vcpu.access_data().try_into().unwrap());
        assert!(told >= 600_000, "{told}");
        assert!(machine.regs().rbx >= 2);
    });
    test_utils::wait::join("the guest", guest);
}

#[test]
fn the_pit_tells_load_times_by_the_hosts_monotonic_clock() {
    let vm = Mock::guest_code().with_clock(Clock::Host).create_soft_vm().unwrap();
    let monotonic = || {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        now.tv_sec * 1_000_000_000 + now.tv_nsec
    };
    let before = monotonic();
    vm.set_pit(&vm.pit().unwrap()).unwrap();
    let loaded = vm.pit().unwrap().channels[2].count_load_time;
    assert!((before..=monotonic()).contains(&loaded), "{loaded} is not after {before}");
}

#[test]
fn kvmclocks_page_says_what_the_time_stamp_is() {
    const PAGE: u64 = 0x6000;
    let code = [wrmsr(0x4b56_4d01, PAGE | 1), wrmsr(0x4b56_4d00, 0x6100), TELL_TIME.into(), HLT.into()];
    let mut machine = machine(&code);
    machine.vm.set_clock(&kvm_clock_data { clock: 7_000_000_000, ..Default::default() }).unwrap();
    let [told] = told(&mut machine)[..] else { panic!("one time") };
    let [version, stamp, system_time, scale] = clock_page(&machine, PAGE);
    assert_eq!((version % 2, system_time - stamp), (0, 7_000_000_000));
    assert!(version > 0 && stamp > 0 && stamp < told.into(), "{version} {stamp} {told}");
    // A factor of 2^31 behind a shift of 1; stable.
    assert_eq!(scale, 0x0000_0101_8000_0000);
    let start = u64::from_le_bytes(machine.read(0x6104));
    // The clock was 7 s when the VM began, in the year 2000.
    assert_eq!(start, 946_684_800 - 7);
    machine.vm.set_clock(&kvm_clock_data { clock: 0, ..Default::default() }).unwrap();
    machine.run();
    let [later, stamp, system_time, _] = clock_page(&machine, PAGE);
    assert!(later > version && system_time < stamp, "{later} {system_time} {stamp}");
}

/// Version, time stamp, clock, and the word with factor, shift and flags.
fn clock_page(machine: &Machine, at: u64) -> [u64; 4] {
    [0, 8, 16, 24].map(|offset| u64::from_le_bytes(machine.read(at + offset)))
}
