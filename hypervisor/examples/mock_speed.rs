//! How fast the mock executes guest code, and what an exit costs there: `cargo run --release -p hypervisor --example
//! mock_speed`. Measured, not judged: the medians of nine rounds, in processor time, so that what else runs on the machine
//! does not count.

use std::error::Error;
use std::time::Duration;

use hypervisor::mock::Mock;
use hypervisor::{Exit, GuestAddress, GuestMemoryRegion, Hypervisor, Vcpu, VcpuId};
use rustix::time::{ClockId, clock_gettime};
use test_utils::{guest, memory};

const ROUNDS: usize = 9;
/// Where the counter lies in guest memory.
const COUNTER: u64 = 0x3000;
/// Times that the loop of four instructions is made in a round.
const TURNS: u32 = 1_000_000;
/// Exits of a round.
const EXITS: u32 = 200_000;

fn main() -> Result<(), Box<dyn Error>> {
    let turns = TURNS.to_le_bytes();
    let mut loop_code = vec![
        0xbe, 0x00, 0x20, //                   mov si, 0x2000
        0xbf, 0x00, 0x30, //                   mov di, COUNTER
        0x66, 0x8b, 0x04, //            again: mov eax, [si]
        0x66, 0x01, 0x05, //                   add [di], eax
        0x66, 0x81, 0x3d, //                   cmp dword [di], TURNS
    ];
    loop_code.extend(turns);
    loop_code.extend([0x75, 0xf1]); //         jnz again
    loop_code.extend([0xe6, 0x10]); //         out 0x10, al
    let exit_code = [
        0xe6, 0x10, //                  again: out 0x10, al
        0xeb, 0xfc, //                         jmp again
    ];

    let mut loops = Vec::new();
    let mut exits = Vec::new();
    for _ in 0..ROUNDS {
        loops.push(time_loop(&loop_code)?);
        exits.push(time_exits(&exit_code)?);
    }
    let per_instruction = median(&mut loops).as_secs_f64() / f64::from(TURNS) / 4.0;
    let per_exit = median(&mut exits).as_secs_f64() / f64::from(EXITS);
    println!("mov, add, cmp, jnz over memory: {:.1} million instructions a second", 1e-6 / per_instruction);
    println!("an exit and the way back:       {:.0} ns", per_exit * 1e9);
    Ok(())
}

/// The processor time that this thread has used.
fn now() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // It begins at 0 and only grows.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// A vCPU about to execute `code`, with the number 1 at 0x2000.
fn vcpu(code: &[u8]) -> Result<Box<dyn Vcpu>, Box<dyn Error>> {
    let vm = Mock::guest_code().create_vm()?;
    let ram = memory::sealed_memfd(guest::RAM_LEN);
    memory::write_at(&ram, guest::ENTRY - guest::RAM_START, code);
    memory::write_at(&ram, 0x2000 - guest::RAM_START, &1_u32.to_le_bytes());
    memory::write_at(&ram, COUNTER - guest::RAM_START, &0_u32.to_le_bytes());
    vm.map_memory(GuestMemoryRegion::new(GuestAddress(guest::RAM_START), ram, 0, guest::RAM_LEN)?)?;
    let mut vcpu = vm.create_vcpu(VcpuId(0))?;
    guest::boot(&mut *vcpu);
    Ok(vcpu)
}

fn time_loop(code: &[u8]) -> Result<Duration, Box<dyn Error>> {
    let mut vcpu = vcpu(code)?;
    let start = now();
    let exit = vcpu.run()?;
    let time = now() - start;
    if !matches!(exit, Exit::Access(_)) {
        return Err(format!("the loop ended in {exit:?}").into());
    }
    Ok(time)
}

fn time_exits(code: &[u8]) -> Result<Duration, Box<dyn Error>> {
    let mut vcpu = vcpu(code)?;
    let start = now();
    for _ in 0..EXITS {
        let exit = vcpu.run()?;
        if !matches!(exit, Exit::Access(_)) {
            return Err(format!("{exit:?} instead of an access").into());
        }
    }
    Ok(now() - start)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
