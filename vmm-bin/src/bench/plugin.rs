//! The benchmark's plugin: answers every access at once.

use std::fs::File;
use std::io::{self, Read, Write};
use std::thread;

use clap::Args;
use hypervisor::kvm_mp_state;
use plugin_sdk::{AddressSpace, Connection, Event, MemoryFlags, State, Vcpu};
use rustix::process::setsid;

use super::guest::{self, Case, Posts};
use super::links;
use super::processors;
use crate::error::{Error, Failure};

/// `KVM_MP_STATE_RUNNABLE`
const RUNNABLE: kvm_mp_state = kvm_mp_state { mp_state: 0 };

/// What the plugin is told.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct PluginArgs {
    /// What the guest does
    case: Case,
    /// How many ranges to reserve
    #[arg(long, default_value = "1")]
    reservations: u32,
    /// The processor to keep to
    #[arg(long)]
    core: Option<usize>,
    /// Leave the session
    #[arg(long)]
    own_session: bool,
}

/// What `outboard bench-plugin` does, started by the VMM.
pub(crate) fn run(args: PluginArgs) -> Result<(), Error> {
    if let Some(core) = args.core {
        processors::pin_this_thread(&[core])?;
    }
    if args.own_session {
        setsid().map_err(|errno| Error::system("making a session")(errno.into()))?;
    }
    let case = args.case;
    let mut vm = Connection::from_env()?;
    let memory = case.memory()?;
    let _mapped = vm.map_memory(&memory, 0..memory.size(), 0, MemoryFlags::default())?;
    vm.reserve_range(AddressSpace::Pio, guest::PORT.into(), 1)?;
    vm.reserve_async_write_range(AddressSpace::Pio, guest::POSTED_PORT.into(), 1)?;
    if case == Case::Coalesced {
        vm.reserve_coalesced_write_range(AddressSpace::Pio, guest::COALESCED_PORT.into(), 1)?;
    }
    vm.reserve_range(AddressSpace::Mmio, guest::ADDRESS.into(), 1)?;
    for (start, length) in links::other_ranges(args.reservations) {
        vm.reserve_range(AddressSpace::Mmio, start, length)?;
    }
    let mut shutdown = File::from(vm.shutdown_eventfd()?);
    let vcpus = vm.vcpus()?;
    vm.start()?;
    for vcpu in vcpus {
        thread::spawn(move || {
            if let Err(error) = serve(vcpu, case) {
                // The VMM logs it; if it is gone, there is nobody to tell.
                let _ = writeln!(io::stderr(), "{error}");
                std::process::exit(1);
            }
        });
    }
    // The VMM says when it is over; the threads are left where they wait.
    shutdown.read_exact(&mut [0; 8]).map_err(Error::system("waiting for the end"))
}

fn serve(mut vcpu: Vcpu, case: Case) -> Result<(), Failure> {
    let mut posts = Posts::default();
    loop {
        match vcpu.wait() {
            Ok(event) => answer(event, case, &mut posts)?,
            Err(plugin_sdk::Error::Disconnected) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn answer(event: Event<'_>, case: Case, posts: &mut Posts) -> Result<(), Failure> {
    match event {
        Event::Read(mut read) => {
            if case.sets_registers() {
                change_registers(read.state())?;
            }
            read.answer(&[guest::ANSWER])?;
        }
        Event::Write(mut write) => {
            if !posts.are_complete(case) {
                return Err("posted writes are missing".into());
            }
            if case.sets_registers() {
                change_registers(write.state())?;
            }
            write.resume()?;
        }
        Event::Posted(_) => posts.add(),
        Event::Init(mut init) => {
            let mut sregs = init.state().sregs()?;
            guest::enter_real_mode(&mut sregs);
            init.state().set_sregs(&sregs);
            init.state().set_regs(&guest::regs());
            // All but the first wait to be started by it.
            init.state().set_mp_state(&RUNNABLE)?;
            init.resume()?;
        }
        other => other.resume()?,
    }
    Ok(())
}

fn change_registers(state: &mut State<'_>) -> Result<(), plugin_sdk::Error> {
    let mut regs = state.regs()?;
    guest::change(&mut regs);
    state.set_regs(&regs);
    Ok(())
}
