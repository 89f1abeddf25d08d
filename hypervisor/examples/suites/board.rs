//! A PC's memory and vCPUs around the devices: each vCPU on a thread of its own.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use hypervisor::{
    AddressSpace, Direction, Exit, GuestAddress, GuestMemoryRegion, Hypervisor, Vcpu, VcpuId, Vm, kvm_regs, kvm_segment,
};
use test_utils::memory;

use super::devices::{Devices, Effect};

/// Bytes of RAM.
pub(crate) const RAM_LEN: u64 = 128 << 20;
/// Where a ROM of 128 KiB is seen below 1 MiB; above it, it ends at 4 GiB.
const ROM: u64 = 0xe_0000;

/// How a guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By the port for that.
    Exit(u32),
    /// All of test386 is done.
    Finished,
    /// A triple fault.
    Shutdown,
    /// The backend gave up.
    Failed(String),
    /// It was stopped.
    TimeOut(String),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Finished => f.write_str("finished"),
            Self::Shutdown => f.write_str("triple fault"),
            Self::Failed(why) => f.write_str(why),
            Self::TimeOut(at) => write!(f, "no end, {at}"),
        }
    }
}

/// What a guest did.
pub(crate) struct Ran {
    pub(crate) end: End,
    pub(crate) output: String,
    pub(crate) post: Option<u8>,
}

pub(crate) struct Board {
    vm: Arc<dyn Vm>,
    ram: OwnedFd,
    vcpus: Vec<Box<dyn Vcpu>>,
}

impl Board {
    /// A board of `vcpus` vCPUs and RAM.
    pub(crate) fn new(hypervisor: &dyn Hypervisor, vcpus: u32) -> Self {
        let vm = hypervisor.create_vm().expect("create_vm");
        let ram = memory::sealed_memfd(RAM_LEN);
        let cpuid = hypervisor.supported_cpuid().expect("supported_cpuid");
        let make = |id| {
            let mut vcpu = vm.create_vcpu(VcpuId(id)).expect("create_vcpu");
            let mut cpuid = cpuid.clone();
            for leaf in cpuid.iter_mut().filter(|leaf| leaf.function == 1) {
                leaf.ebx = leaf.ebx & 0xff_ffff | id << 24;
            }
            if cpuid.iter().any(|leaf| leaf.function == 0x8000_0001) {
                vcpu.set_cpuid(&cpuid).expect("set_cpuid");
            }
            vcpu
        };
        let vcpus = (0..vcpus).map(make).collect();
        Self { vm, ram, vcpus }
    }

    fn map(&self, start: u64, memfd: &OwnedFd, offset: u64, len: u64, read_only: bool) {
        let memfd = memfd.try_clone().expect("dup");
        let region = GuestMemoryRegion::new(GuestAddress(start), memfd, offset, len).expect("region");
        self.vm.map_memory(region.read_only(read_only)).expect("map_memory");
    }

    /// A ROM that ends below 1 MiB and at 4 GiB; the first vCPU starts in it.
    pub(crate) fn rom(&mut self, image: &[u8]) {
        let rom = memory::sealed_memfd(image.len() as u64);
        memory::write_at(&rom, 0, image);
        let len = image.len() as u64;
        let low = 0x10_0000 - len;
        self.map(0, &self.ram, 0, low.min(ROM), false);
        self.map(low, &rom, 0, len, true);
        self.map(0x1_0000_0000 - len, &rom, 0, len, true);
    }

    /// Writes to RAM.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), String> {
        if address.checked_add(bytes.len() as u64).is_none_or(|end| end > RAM_LEN) {
            return Err(format!("{address:#x} is not in RAM"));
        }
        memory::write_at(&self.ram, address, bytes);
        Ok(())
    }

    /// All RAM, with the first vCPU at `entry` in flat 32-bit protected mode.
    pub(crate) fn enter(&mut self, entry: u64, rax: u64, rbx: u64) {
        self.map(0, &self.ram, 0, RAM_LEN, false);
        let Some(vcpu) = self.vcpus.first_mut() else { return };
        let mut sregs = vcpu.sregs().expect("sregs");
        let segment = |selector, type_| kvm_segment {
            limit: u32::MAX,
            selector,
            type_,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..Default::default()
        };
        (sregs.cs, sregs.ds) = (segment(8, 11), segment(16, 3));
        (sregs.es, sregs.fs, sregs.gs, sregs.ss) = (sregs.ds, sregs.ds, sregs.ds, sregs.ds);
        sregs.cr0 |= 1;
        vcpu.set_sregs(&sregs).expect("set_sregs");
        let regs = kvm_regs { rip: entry, rax, rbx, rflags: 2, ..Default::default() };
        vcpu.set_regs(&regs).expect("set_regs");
    }

    /// Runs all vCPUs until one ends the test, or for `limit`.
    pub(crate) fn run(self, limit: Duration, verbose: bool) -> Ran {
        let Self { vm, ram: _ram, vcpus } = self;
        let devices = Mutex::new(Devices::new(vcpus.len() as u32, RAM_LEN, verbose));
        let stop = AtomicBool::new(false);
        let kicks: Vec<_> = vcpus.iter().map(|vcpu| vcpu.kick_handle()).collect();
        let (send, ends) = mpsc::channel();
        let end = thread::scope(|scope| {
            for vcpu in vcpus {
                let (vm, devices, stop, send) = (&*vm, &devices, &stop, send.clone());
                scope.spawn(move || {
                    let end = serve(vcpu, vm, devices, stop);
                    let _ = send.send(end);
                });
            }
            let first = ends.recv_timeout(limit);
            stop.store(true, Ordering::Release);
            kicks.iter().for_each(|kick| kick.kick());
            match first {
                Ok(end) => end,
                Err(_) => ends.recv().unwrap_or_else(|_| End::TimeOut("nowhere".into())),
            }
        });
        let devices = devices.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ran { end, output: String::from_utf8_lossy(&devices.output).replace('\r', ""), post: devices.post }
    }
}

fn lock(devices: &Mutex<Devices>) -> MutexGuard<'_, Devices> {
    devices.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a vCPU until its guest ends.
fn serve(mut vcpu: Box<dyn Vcpu>, vm: &dyn Vm, devices: &Mutex<Devices>, stop: &AtomicBool) -> End {
    loop {
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) => return End::Failed(error.to_string()),
        };
        match exit {
            Exit::Access(access) => {
                let ports = access.space() == AddressSpace::Pio;
                match access.direction() {
                    Direction::Read => {
                        let mut data = vec![0xff; access.len()];
                        if ports {
                            lock(devices).read(access.address(), access.width().into(), &mut data);
                        } else {
                            lock(devices).load(access.address(), &mut data);
                        }
                        if let Err(error) = vcpu.answer(&data) {
                            return End::Failed(error.to_string());
                        }
                    }
                    Direction::Write if ports => {
                        for item in vcpu.access_data().chunks(access.width().into()) {
                            let effect = lock(devices).write(access.address(), item);
                            match effect {
                                Effect::None => {}
                                Effect::Exit(code) => return End::Exit(code),
                                Effect::Line { gsi, high } => {
                                    vm.set_irq(hypervisor::Gsi(gsi), high).unwrap_or_else(|error| eprintln!("{error}"));
                                }
                            }
                        }
                        if lock(devices).is_finished() {
                            return End::Finished;
                        }
                    }
                    Direction::Write => lock(devices).store(access.address(), vcpu.access_data()),
                }
            }
            Exit::Interrupted if stop.load(Ordering::Acquire) => {
                let at = vcpu.regs().map_or(0, |regs| regs.rip);
                return End::TimeOut(format!("RIP {at:#x}"));
            }
            Exit::Interrupted => {}
            Exit::Shutdown => return End::Shutdown,
            Exit::InternalError(error) => return End::Failed(error.to_string()),
            other => return End::Failed(format!("{other:?}")),
        }
    }
}
