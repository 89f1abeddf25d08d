//! A small PC: enough devices for unmodified SeaBIOS, and for an unmodified Linux kernel without firmware.
//!
//! The devices are one file each, in `devices`; they know nothing of plugins. This connects them to the guest: every access to
//! a port that is not the VMM's own comes here, and a port without a device floats.

mod clock;
mod devices;
mod image;
mod linux;
mod machine;
mod memory;
mod options;
mod serial;

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::process::{ExitCode, exit};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use clap::Parser;
use plugin_sdk::{AddressSpace, Connection, Event, GuestMemory, Vcpu, kvm_cpuid_entry2};

use clock::Clock;
use image::Boot;
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
    let boot = image::boot(options)?;
    let disk = options.disk.as_deref().map(image::disk).transpose()?;
    let mut connection = Connection::from_env()?;
    let ram = options.ram();
    let memory = GuestMemory::new(ram)?;
    let mut vcpus = connection.vcpus()?;
    match &boot {
        Boot::Firmware(firmware) if vcpus.len() == 1 => memory::map_firmware(&mut connection, &memory, firmware)?,
        Boot::Firmware(_) => return Err("firmware runs on one processor here: say --cpus 1".into()),
        Boot::Linux(linux) => {
            linux.load(&memory, u8::try_from(vcpus.len())?)?;
            memory::map_ram(&mut connection, &memory)?;
        }
    }
    connection.reserve_range(AddressSpace::Pio, 0, 0x10000)?;
    let serial = SerialPort::start(connection.new_connection()?);
    let cpuid = connection.supported_cpuid()?;
    end_when_told(File::from(connection.shutdown_eventfd()?));
    connection.start()?;
    let clock = Clock::new(connection, options.deterministic);
    let machine = Arc::new(Mutex::new(Machine::new(clock, serial, ram, disk)));
    let starts_kernel = matches!(boot, Boot::Linux(_));
    let (sender, ends) = mpsc::channel();
    for mut vcpu in vcpus.drain(..) {
        let (machine, sender) = (Arc::clone(&machine), sender.clone());
        let cpuid = cpuid_of(&cpuid, vcpu.index() as u8);
        thread::spawn(move || {
            let end = serve(&mut vcpu, starts_kernel, &cpuid, &machine).map_err(|error| error.to_string());
            // The first end is the PC's.
            let _ = sender.send(end);
        });
    }
    if let Some(end) = ends.recv()?? {
        match machine.lock().unwrap_or_else(PoisonError::into_inner).vms_clock()? {
            Some(time) => eprintln!("{end} after {} ns", time.as_nanos()),
            None => eprintln!("{end}"),
        }
    }
    Ok(())
}

/// Ends this process when the VMM ends the VM from outside, for example by Ctrl-C. The vCPU's thread may be waiting then.
fn end_when_told(mut shutdown: File) {
    thread::spawn(move || {
        let told = shutdown.read_exact(&mut [0; 8]);
        exit(told.is_err().into());
    });
}

/// What processor `index` tells of itself: its local APIC has the same number.
fn cpuid_of(cpuid: &[kvm_cpuid_entry2], index: u8) -> Vec<kvm_cpuid_entry2> {
    let mut cpuid = cpuid.to_vec();
    for entry in cpuid.iter_mut().filter(|entry| entry.function == 1) {
        entry.ebx = entry.ebx & 0x00ff_ffff | u32::from(index) << 24;
    }
    cpuid
}

/// Serves the guest until it ends the PC, and returns its end in words, or the VMM ends the VM. A vCPU begins as a processor's
/// reset leaves it: there firmware begins, and all processors of a kernel but the first, which the kernel starts itself.
fn serve(
    vcpu: &mut Vcpu,
    starts_kernel: bool,
    cpuid: &[kvm_cpuid_entry2],
    machine: &Mutex<Machine>,
) -> Result<Option<&'static str>, Box<dyn Error>> {
    let enters_kernel = starts_kernel && vcpu.index() == 0;
    loop {
        let event = match vcpu.wait() {
            Err(plugin_sdk::Error::Disconnected) => return Ok(None),
            event => event?,
        };
        let lock = || machine.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init(mut init) => {
                init.state().set_cpuid(cpuid)?;
                if enters_kernel {
                    linux::enter(init.state())?;
                }
                init.resume()?;
            }
            Event::Read(read) => {
                let mut data = vec![0; read.access().length];
                lock().read(port(read.access()), read.width(), &mut data)?;
                read.answer(&data)?;
            }
            Event::Write(write) => {
                let outcome = lock().write(port(write.access()), write.width(), write.data())?;
                match outcome {
                    Outcome::Continue => write.resume()?,
                    Outcome::Reset => return Ok(Some("the guest has reset the PC")),
                    Outcome::PowerOff => return Ok(Some("the guest has switched the PC off")),
                }
            }
            other => other.resume()?,
        }
    }
}

/// Ports are all that was reserved, and those are below 0x10000.
fn port(access: plugin_sdk::Access) -> u16 {
    access.address as u16
}
