//! Two VMs in one process: one on KVM where there is a KVM, one on the mock. The plugin of each is this program once more.

use std::num::NonZeroU32;
use std::process::ExitCode;
use std::{env, io, thread};

use hypervisor::Hypervisor;
use hypervisor::kvm::Kvm;
use hypervisor::mock::Mock;
use plugin_runtime::jail::{JailConfig, helper_main};
use plugin_runtime::{Config, PluginCommand, Sandbox};
use plugin_sdk::{AddressSpace, Connection, Event, GuestMemory, MemoryFlags};

/// What any part of this program may fail with.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The argument that makes this program a plugin.
const PLUGIN: &str = "be-the-plugin";

/// What the guest prints: `mov dx, 0x3f8; mov al, 'h'; out dx, al; mov al, 'i'; out dx, al; mov al, '\n'; out dx, al; hlt`
const GUEST: [u8; 13] = [0xba, 0xf8, 0x03, 0xb0, b'h', 0xee, 0xb0, b'i', 0xee, 0xb0, b'\n', 0xee, 0xf4];
const GUEST_ADDRESS: u64 = 0x1000;
const SERIAL_PORT: u64 = 0x3f8;

fn main() -> ExitCode {
    // Before anything else: `run` starts this program once more, as the helper that makes a plugin's jail.
    if let Some(code) = helper_main() {
        return code;
    }
    let done = if env::args().nth(1).as_deref() == Some(PLUGIN) { be_the_plugin() } else { run_vms() };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// Runs both VMs, each on a thread of its own.
fn run_vms() -> Result<(), Failure> {
    let mut hypervisors: Vec<Box<dyn Hypervisor>> = vec![Box::new(Mock::guest_code())];
    match Kvm::open() {
        Ok(kvm) => hypervisors.push(Box::new(kvm)),
        Err(error) => println!("no KVM here: {error}"),
    }
    thread::scope(|scope| {
        let vms: Vec<_> = hypervisors.iter().map(|hypervisor| scope.spawn(|| run_vm(&**hypervisor))).collect();
        for (vm, hypervisor) in vms.into_iter().zip(&hypervisors) {
            vm.join().map_err(|_| "a VM's thread panicked")??;
            println!("the VM on {} has ended well", hypervisor.name());
        }
        Ok(())
    })
}

fn run_vm(hypervisor: &dyn Hypervisor) -> Result<(), Failure> {
    let plugin = PluginCommand { path: env::current_exe()?, args: vec![PLUGIN.into()] };
    let sandbox = Sandbox::Jail(Box::new(JailConfig::with_filter()?));
    // This thread needs nothing any more but to run the VM.
    let config = Config { confine: true, ..Config::new(NonZeroU32::MIN, sandbox) };
    Ok(plugin_runtime::run(hypervisor, &plugin, config)?)
}

/// What the plugin does: it gives the guest memory, and takes what the guest writes to the serial port.
fn be_the_plugin() -> Result<(), Failure> {
    let mut vm = Connection::from_env()?;
    let memory = GuestMemory::new(0x10000)?;
    memory.write(GUEST_ADDRESS, &GUEST)?;
    let _mapped = vm.map_memory(&memory, 0..memory.size(), 0, MemoryFlags::default())?;
    vm.reserve_range(AddressSpace::Pio, SERIAL_PORT, 1)?;
    let mut vcpu = vm.vcpus()?.remove(0);
    vm.start()?;
    let mut printed = Vec::new();
    while !printed.ends_with(b"\n") {
        match vcpu.wait()? {
            Event::Init(mut init) => {
                let mut sregs = init.state().sregs()?;
                (sregs.cs.base, sregs.cs.selector) = (0, 0);
                init.state().set_sregs(&sregs);
                let mut regs = init.state().regs()?;
                regs.rip = GUEST_ADDRESS;
                init.state().set_regs(&regs);
                init.resume()?;
            }
            Event::Write(write) => {
                printed.extend(write.data());
                write.resume()?;
            }
            other => other.resume()?,
        }
    }
    if printed == b"hi\n" { Ok(()) } else { Err(io::Error::other(format!("the guest printed {printed:?}")).into()) }
}
