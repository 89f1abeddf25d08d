//! The steps that use the library as it is meant to be used.

use std::os::fd::OwnedFd;

use plugin_sdk::{
    AddressSpace, Connection, Error, Event, GuestMemory, MappedMemory, MemoryFlags, State, Vcpu, kvm_mp_state,
};
use test_utils::guest::{ENTRY, RAM_LEN, RAM_START};

use crate::{Failure, PORTS, hex, number, raw};

/// What the steps have taken so far.
#[derive(Default)]
pub(crate) struct Machine {
    connection: Option<Connection>,
    mapped: Option<(GuestMemory, MappedMemory)>,
    shutdown_event: Option<OwnedFd>,
    vcpus: Vec<Vcpu>,
    chosen: usize,
}

impl Machine {
    pub(crate) fn step(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let (ports, length) = PORTS;
        match name {
            "connect" => self.connection = Some(Connection::from_env()?),
            "close-main" => self.connection = None,
            "reserve" => self.connection()?.reserve_range(AddressSpace::Pio, ports, length)?,
            "memory" => self.give_memory(&hex(value)?)?,
            "vcpus" => self.vcpus = self.connection()?.vcpus()?,
            "vcpus-refused" => self.see_vcpus_refused(value)?,
            "start" => self.connection()?.start()?,
            "event" => self.shutdown_event = Some(self.connection()?.shutdown_eventfd()?),
            "await-event" => raw::await_readable(self.shutdown_event.as_ref().ok_or("no shutdown event taken")?)?,
            "await-hang-up" => self.await_hang_up()?,
            "vcpu" => self.chosen = number(value)? as usize,
            "wait" => wait(self.vcpu()?, value)?,
            "boot" => boot(state(&mut self.vcpu()?.wait()?)?)?,
            "regs" => drop(state(&mut self.vcpu()?.wait()?)?.regs()?),
            "resume" => resume(self.vcpu()?.wait()?, 0)?,
            "answer" => resume(self.vcpu()?.wait()?, number(value)? as u8)?,
            "drop" => drop_events(self.vcpu()?, number(value)?)?,
            "serve" => drop(serve(self.vcpu()?, number(value)?, 0)?),
            "pause" => {
                let mask = 1 << self.chosen;
                self.connection()?.pause_vcpus(mask, 7)?;
            }
            "serve-all" => self.serve_all(number(value)?)?,
            _ => return Err("no such step".into()),
        }
        Ok(())
    }

    fn connection(&mut self) -> Result<&mut Connection, Failure> {
        self.connection.as_mut().ok_or_else(|| "not connected".into())
    }

    fn vcpu(&mut self) -> Result<&mut Vcpu, Failure> {
        self.vcpus.get_mut(self.chosen).ok_or_else(|| "no such vCPU".into())
    }

    fn give_memory(&mut self, code: &[u8]) -> Result<(), Failure> {
        let memory = GuestMemory::new(RAM_LEN)?;
        memory.write(ENTRY - RAM_START, code)?;
        let mapped = self.connection()?.map_memory(&memory, 0..RAM_LEN, RAM_START, MemoryFlags::default())?;
        self.mapped = Some((memory, mapped));
        Ok(())
    }

    fn see_vcpus_refused(&mut self, errno: &str) -> Result<(), Failure> {
        match self.connection()?.vcpus() {
            Err(Error::Refused { source, .. }) if source.raw_os_error() == Some(number(errno)? as i32) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(vcpus) => Err(format!("{} vCPUs in place of a refusal", vcpus.len()).into()),
        }
    }

    /// Asks for nothing until there is nobody to ask.
    fn await_hang_up(&mut self) -> Result<(), Failure> {
        raw::await_readable(raw::main_socket()?)?;
        match self.connection()?.pause_vcpus(0, 0) {
            Err(Error::Disconnected) => Ok(()),
            other => Err(format!("{other:?} in place of a hang-up").into()),
        }
    }

    fn serve_all(&mut self, writes: u64) -> Result<(), Failure> {
        let threads: Vec<_> = std::mem::take(&mut self.vcpus)
            .into_iter()
            .map(|mut vcpu| {
                std::thread::spawn(move || {
                    let answer = 0x40 + vcpu.index() as u8;
                    boot(state(&mut vcpu.wait()?)?)?;
                    resume(vcpu.wait()?, 0)?;
                    let last = serve(&mut vcpu, writes, answer)?;
                    Ok::<_, Failure>((vcpu, last))
                })
            })
            .collect();
        for thread in threads {
            let (vcpu, last) = thread.join().map_err(|_| "a vCPU's thread panicked")??;
            println!("vcpu {} wrote {last:#x}", vcpu.index());
            self.vcpus.push(vcpu);
        }
        Ok(())
    }
}

/// Waits for an event of that kind. A vCPU is stopped at it until a later step resumes it.
fn wait(vcpu: &mut Vcpu, expected: &str) -> Result<(), Failure> {
    let kind = match vcpu.wait() {
        Ok(Event::Init(_)) => "init",
        Ok(Event::Read(_)) => "read",
        Ok(Event::Write(_)) => "write",
        Ok(Event::Paused(_)) => "paused",
        Err(Error::Disconnected) => "disconnected",
        other => return Err(format!("{other:?} in place of {expected}").into()),
    };
    if kind == expected { Ok(()) } else { Err(format!("{kind} in place of {expected}").into()) }
}

fn state<'e, 'v>(event: &'e mut Event<'v>) -> Result<&'e mut State<'v>, Failure> {
    match event {
        Event::Init(init) => Ok(init.state()),
        Event::Read(read) => Ok(read.state()),
        Event::Write(write) => Ok(write.state()),
        Event::Paused(paused) => Ok(paused.state()),
        other => Err(format!("no state in {other:?}").into()),
    }
}

/// Real mode, at the code. vCPUs but the first wait to be started by another, unless made runnable.
fn boot(state: &mut State<'_>) -> Result<(), Failure> {
    let mut sregs = state.sregs()?;
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    state.set_sregs(&sregs);
    let mut regs = state.regs()?;
    regs.rip = ENTRY;
    state.set_regs(&regs);
    state.set_mp_state(&kvm_mp_state { mp_state: 0 })?;
    Ok(())
}

fn resume(event: Event<'_>, answer: u8) -> Result<(), Failure> {
    match event {
        Event::Init(init) => init.resume()?,
        Event::Read(read) => {
            let data = vec![answer; read.access().length];
            read.answer(&data)?;
        }
        Event::Write(write) => write.resume()?,
        Event::Paused(paused) => paused.resume()?,
        other => return Err(format!("{other:?} cannot be resumed").into()),
    }
    Ok(())
}

/// What a plugin does that does not know that events must be resumed.
fn drop_events(vcpu: &mut Vcpu, times: u64) -> Result<(), Failure> {
    for _ in 0..times {
        drop(vcpu.wait()?);
    }
    Ok(())
}

/// Answers accesses until the guest has made `writes` writes: the first byte of the last.
fn serve(vcpu: &mut Vcpu, writes: u64, answer: u8) -> Result<u8, Failure> {
    let mut last = 0;
    let mut seen = 0;
    while seen < writes {
        let event = vcpu.wait()?;
        if let Event::Write(write) = &event {
            last = write.data().first().copied().unwrap_or_default();
            seen += 1;
        }
        resume(event, answer)?;
    }
    Ok(last)
}
