//! A small PC: enough devices for unmodified SeaBIOS.
//!
//! The devices are one file each, in `devices`; they know nothing of plugins. This connects them to the guest: every access to
//! a port that is not the VMM's own comes here, and a port without a device floats.

mod devices;
mod image;
mod machine;
mod memory;
mod options;
mod serial;

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::process::{ExitCode, exit};
use std::thread;

use clap::Parser;
use plugin_sdk::{AddressSpace, Connection, Event, Vcpu};

use machine::{Machine, Outcome};
use options::Options;
use serial::SerialPort;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let firmware = image::firmware(&options.bios)?;
    let disk = options.disk.as_deref().map(image::disk).transpose()?;
    let mut connection = Connection::from_env()?;
    let ram = options.memory << 20;
    memory::map(&mut connection, ram, &firmware)?;
    connection.reserve_range(AddressSpace::Pio, 0, 0x10000)?;
    let serial = SerialPort::start(connection.create_irq_event(serial::LINE)?);
    let cpuid = connection.supported_cpuid()?;
    end_when_told(File::from(connection.shutdown_eventfd()?));
    let mut vcpus = connection.vcpus()?;
    let [vcpu] = &mut vcpus[..] else { return Err("this PC has one processor: say --cpus 1".into()) };
    connection.start()?;
    serve(vcpu, &cpuid, &mut Machine::new(connection, serial, ram, disk))
}

/// Ends this process when the VMM ends the VM from outside, for example by Ctrl-C. The vCPU's thread may be waiting then.
fn end_when_told(mut shutdown: File) {
    thread::spawn(move || {
        let told = shutdown.read_exact(&mut [0; 8]);
        exit(told.is_err().into());
    });
}

/// Answers the guest until it resets the PC or the VMM ends the VM. A vCPU begins as a processor's reset leaves it, so there
/// is nothing to set but what it tells of itself.
fn serve(vcpu: &mut Vcpu, cpuid: &[plugin_sdk::kvm_cpuid_entry2], machine: &mut Machine) -> Result<(), Box<dyn Error>> {
    loop {
        let event = match vcpu.wait() {
            Err(plugin_sdk::Error::Disconnected) => return Ok(()),
            event => event?,
        };
        match event {
            Event::Init(mut init) => {
                init.state().set_cpuid(cpuid)?;
                init.resume()?;
            }
            Event::Read(read) => {
                let mut answer = vec![0; read.access().length];
                machine.read(port(read.access()), read.width(), &mut answer)?;
                read.answer(&answer)?;
            }
            Event::Write(write) => match machine.write(port(write.access()), write.width(), write.data())? {
                Outcome::GoOn => write.resume()?,
                Outcome::Reset => return Ok(()),
            },
            other => other.resume()?,
        }
    }
}

/// Ports are all that was reserved, and those are below 0x10000.
fn port(access: plugin_sdk::Access) -> u16 {
    access.address as u16
}
