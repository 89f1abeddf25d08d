//! A plugin that is sent signals all the time, and sees that what its guest does comes all the same, once and in order.
//!
//! `restless N` handles SIGUSR1, by which system calls are interrupted and not begun again, prints `ready`, and serves N exits of
//! each of two vCPUs while its main thread makes requests. It prints `N signals` and exits with 0.

#![allow(unsafe_code, reason = "a handler without SA_RESTART is set by libc alone")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use plugin_sdk::{AddressSpace, Connection, Event, GuestMemory, MemoryFlags, State, Vcpu, kvm_mp_state};

type Failure = Box<dyn std::error::Error + Send + Sync>;

static SIGNALS: AtomicU64 = AtomicU64::new(0);

const ENTRY: u64 = 0x1000;
/// Writes to it wait, and reads must give the count.
const SYNC: u64 = 0x10;
/// Writes to it do not wait.
const POSTED: u64 = 0x50;
/// A read gave something else.
const WRONG: u64 = 0x30;
const VCPUS: usize = 2;

/// 16-bit code. EBX counts the accesses.
const GUEST: [u8; 30] = [
    0x66,
    0x43, //       again: inc ebx
    0x66,
    0x89,
    0xd8, //        mov eax, ebx
    0x66,
    0xe7,
    SYNC as u8, //  out SYNC, eax
    0x66,
    0x43, //              inc ebx
    0x66,
    0x89,
    0xd8, //        mov eax, ebx
    0x66,
    0xe7,
    POSTED as u8, // out POSTED, eax
    0x66,
    0x43, //              inc ebx
    0x66,
    0xe5,
    SYNC as u8, //  in eax, SYNC
    0x66,
    0x39,
    0xd8, //        cmp eax, ebx
    0x74,
    0x02, //              je right
    0xe6,
    WRONG as u8, //       out WRONG, al
    0xeb,
    0xe2, //       right: jmp again
];

extern "C" fn count(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("restless: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<(), Failure> {
    let exits: u32 = std::env::args().nth(1).ok_or("how many exits?")?.parse()?;
    handle_signals()?;
    let mut vm = Connection::from_env()?;
    let memory = GuestMemory::new(0x2000)?;
    memory.write(ENTRY, &GUEST)?;
    let _mapped = vm.map_memory(&memory, 0..memory.size(), 0, MemoryFlags::default())?;
    vm.reserve_range(AddressSpace::Pio, SYNC, 4)?;
    vm.reserve_range(AddressSpace::Pio, WRONG, 1)?;
    vm.reserve_async_write_range(AddressSpace::Pio, POSTED, 4)?;
    let vcpus = vm.vcpus()?;
    if vcpus.len() != VCPUS {
        return Err("two vCPUs are needed".into());
    }
    vm.start()?;
    println!("ready");
    let threads: Vec<_> = vcpus.into_iter().map(|vcpu| thread::spawn(move || serve(vcpu, exits))).collect();
    let mut pauses = 0;
    while !threads.iter().all(thread::JoinHandle::is_finished) {
        pauses += 1;
        vm.pause_vcpus(u64::MAX, pauses)?;
        vm.new_connection()?.set_irq(10, false)?;
    }
    for thread in threads {
        thread.join().map_err(|_| "a vCPU's thread panicked")??;
    }
    println!("{} signals", SIGNALS.load(Ordering::Relaxed));
    Ok(())
}

fn handle_signals() -> std::io::Result<()> {
    // SAFETY: a `sigaction` of zeros is valid: no flags, an empty mask. The handler adds to an atomic and does nothing else.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut())
    };
    if set == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

fn serve(mut vcpu: Vcpu, exits: u32) -> Result<(), Failure> {
    let mut due = 1u32;
    while due <= exits {
        match vcpu.wait()? {
            Event::Init(mut init) => {
                boot(init.state())?;
                init.resume()?;
            }
            Event::Write(write) => {
                check(write.access().address == SYNC && due % 3 == 1, write.data(), &mut due)?;
                write.resume()?;
            }
            Event::Posted(posted) => check(due % 3 == 2, &posted.data, &mut due)?,
            Event::Read(read) => {
                let answer = due.to_le_bytes();
                check(due.is_multiple_of(3), &answer, &mut due)?;
                read.answer(&answer)?;
            }
            Event::Paused(mut paused) => {
                paused.state().regs()?;
                paused.resume()?;
            }
            other => return Err(format!("{other:?}").into()),
        }
    }
    Ok(())
}

/// Sees that an access is the one that is due.
fn check(right_kind: bool, data: &[u8], due: &mut u32) -> Result<(), Failure> {
    if !right_kind || data != due.to_le_bytes() {
        return Err(format!("access {due} was due, and {data:02x?} came").into());
    }
    *due += 1;
    Ok(())
}

fn boot(state: &mut State<'_>) -> Result<(), Failure> {
    let mut sregs = state.sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    state.set_sregs(&sregs);
    let mut regs = state.regs()?;
    (regs.rip, regs.rbx) = (ENTRY, 0);
    state.set_regs(&regs);
    // The second waits for a start-up interrupt else; 0 is runnable.
    Ok(state.set_mp_state(&kvm_mp_state { mp_state: 0 })?)
}
