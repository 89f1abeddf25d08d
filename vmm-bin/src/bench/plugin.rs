//! The benchmark's plugin: answers every access at once.

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread;

use plugin_sdk::{AddressSpace, Connection, Event, MemoryFlags, Vcpu};

use rustix::process::setsid;

use super::guest::{self, Case};
use crate::error::Error;

/// What `outboard bench-plugin` does, started by the VMM. With `own_session` it leaves the session it was started in.
pub(crate) fn run(case: Case, own_session: bool) -> Result<(), Error> {
    if own_session {
        setsid().map_err(|errno| Error::system("making a session")(errno.into()))?;
    }
    let mut vm = Connection::from_env()?;
    let memory = case.memory()?;
    let _mapped = vm.map_memory(&memory, 0..memory.size(), 0, MemoryFlags::default())?;
    vm.reserve_range(AddressSpace::Pio, guest::PORT.into(), 1)?;
    let mut shutdown = File::from(vm.shutdown_eventfd()?);
    let vcpus = vm.vcpus()?;
    vm.start()?;
    for vcpu in vcpus {
        thread::spawn(move || {
            if let Err(error) = serve(vcpu) {
                // The VMM logs it; if it is gone, there is nobody to tell.
                let _ = writeln!(io::stderr(), "{error}");
                std::process::exit(1);
            }
        });
    }
    // The VMM says when it is over; the threads are left where they wait.
    shutdown.read_exact(&mut [0; 8]).map_err(Error::system("waiting for the end"))
}

fn serve(mut vcpu: Vcpu) -> Result<(), plugin_sdk::Error> {
    loop {
        match vcpu.wait() {
            Ok(event) => answer(event)?,
            Err(plugin_sdk::Error::HungUp) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn answer(event: Event<'_>) -> Result<(), plugin_sdk::Error> {
    match event {
        Event::Read(read) => read.answer(&[guest::ANSWER]),
        Event::Write(write) => write.resume(),
        Event::Init(mut init) => {
            let mut sregs = init.state().sregs()?;
            guest::enter_real_mode(&mut sregs);
            init.state().set_sregs(&sregs);
            init.state().set_regs(&guest::regs());
            init.resume()
        }
        other => other.resume(),
    }
}
