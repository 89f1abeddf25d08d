//! The demo's plugin: a serial port in a process of its own.

use std::io::{self, Write};

use plugin_sdk::{AddressSpace, Connection, Event, GuestMemory, MemoryFlags, State, Vcpu};

use super::counters::Counters;
use super::guest;
use crate::error::Error;

/// What `outboard demo-plugin` does, started by the VMM.
pub(crate) fn run(backend: &str) -> Result<(), Error> {
    let mut vm = Connection::from_env()?;

    // Guest memory is the plugin's: it puts the program there, and shows it to the guest from address 0 on.
    let memory = GuestMemory::new(0x10000)?;
    memory.write(guest::ENTRY, &guest::program())?;
    let _mapped = vm.map_memory(&memory, 0..memory.size(), 0, MemoryFlags::default())?;

    // From now on an access to these ports stops the vCPU and becomes an event here.
    vm.reserve_range(AddressSpace::Pio, guest::SERIAL, 8)?;
    vm.reserve_range(AddressSpace::Pio, guest::END, 1)?;

    // One vCPU is served right here. Several would get a thread each.
    let mut vcpus = vm.vcpus()?;
    vm.start()?;
    let mut counters = Counters::default();
    for vcpu in &mut vcpus {
        serve(vcpu, &mut counters)?;
    }

    // The VM ends when the plugin does.
    write!(io::stdout(), "\nbackend        {backend}\n{counters}").map_err(Error::system("writing the table"))
}

/// Answers the guest until it asks for its end.
fn serve(vcpu: &mut Vcpu, counters: &mut Counters) -> Result<(), Error> {
    let mut line = Vec::new();
    loop {
        let event = vcpu.wait()?;
        counters.count(&event);
        match event {
            Event::Init(mut init) => {
                boot(init.state())?;
                init.resume()?;
            }
            Event::Read(read) => {
                let access = read.access();
                let value = if access.address == guest::LINE_STATUS { guest::READY } else { 0 };
                read.answer(&vec![value; access.length])?;
            }
            Event::Write(write) if write.access().address == guest::END => return Ok(()),
            Event::Write(write) => {
                line.extend_from_slice(write.data());
                write.resume()?;
                if line.ends_with(b"\n") {
                    print(&line)?;
                    line.clear();
                }
            }
            other => other.resume()?,
        }
    }
}

/// Puts the vCPU at the program's first instruction, in 16-bit real mode, with the two numbers in its registers.
fn boot(state: &mut State<'_>) -> Result<(), Error> {
    let mut sregs = state.sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    state.set_sregs(&sregs);

    let mut regs = state.regs()?;
    regs.rip = guest::ENTRY;
    regs.rax = guest::FIRST.into();
    regs.rbx = guest::SECOND.into();
    state.set_regs(&regs);
    Ok(())
}

fn print(line: &[u8]) -> Result<(), Error> {
    write!(io::stdout(), "guest: {}", String::from_utf8_lossy(line)).map_err(Error::system("writing the guest's line"))
}
