//! A run whose plugin the test is, over the raw client.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::Signal;
use test_utils::guest::{ENTRY, Program, RAM_LEN, RAM_START};
use test_utils::memory;
use test_utils::raw::request::{self, Memory};
use test_utils::raw::{self, MainSocket, Message, Relay, VcpuChannel, VcpuPipes, VcpuRing};

use super::{Backend, Ended, Outboard, Resources, Running, Span, example};

/// How long an end may take that does not wait for the plugin.
const SOON: Duration = Duration::from_secs(2);

/// The id of the guest's RAM.
pub(crate) const RAM_ID: u32 = 1;

/// A VM with a plugin that has connected, and has asked for nothing yet.
pub(crate) struct Driven {
    pub(crate) main: MainSocket,
    pub(crate) relay: Relay,
    pub(crate) running: Running,
    program: Program,
}

impl Driven {
    pub(crate) fn new(backend: Backend, program: &Program) -> Self {
        Self::with(backend, program, &[])
    }

    /// [`new`](Self::new) with more options of `outboard run`.
    pub(crate) fn with(backend: Backend, program: &Program, options: &[&str]) -> Self {
        Self::start(program, Outboard::plugin(backend, options, "relay", [""; 0]))
    }

    /// [`new`](Self::new) on the mock, whose vCPUs follow a script that no program stands for.
    pub(crate) fn scripted(script: &str) -> Self {
        Self::start(&Program::new(), Outboard::scripted(script, &example("relay"), [""; 0]))
    }

    /// A call whose plugin is the relay.
    pub(crate) fn start(program: &Program, call: Outboard) -> Self {
        let (ours, theirs) = raw::pair();
        let running = call.stdin(theirs).start();
        let (relay, main) = Relay::accept(ours).expect("the relay hands its socket over");
        // Answered after the VMM has taken in what the jail told before.
        drop(main.ask(&request::get_shutdown_eventfd()));
        Self { main, relay, running, program: program.clone() }
    }

    /// Gives the guest RAM with its program: the memory, to look into.
    pub(crate) fn load(&self) -> OwnedFd {
        let ram = memory::sealed_memfd(RAM_LEN);
        memory::write_at(&ram, ENTRY - RAM_START, &self.program.code());
        self.main.done_with(&request::create_memory(RAM_ID, Memory::new(RAM_START, RAM_LEN)), &[ram.as_fd()]);
        ram
    }

    /// Reserves `ranges`, loads, starts and boots: the vCPUs, which wait to be resumed from `init`.
    pub(crate) fn booted(&self, reservations: &[Message]) -> Vec<VcpuPipes> {
        for reservation in reservations {
            self.main.done(reservation);
        }
        self.load();
        let mut vcpus = self.main.vcpus();
        self.main.done(&request::start());
        for vcpu in &mut vcpus {
            vcpu.await_init();
            vcpu.boot(ENTRY);
        }
        vcpus
    }

    /// [`booted`](Self::booted), with all vCPUs resumed.
    pub(crate) fn running(&self, reservations: &[Message]) -> Vec<VcpuPipes> {
        let vcpus = self.booted(reservations);
        vcpus.iter().for_each(VcpuPipes::resume);
        vcpus
    }

    /// [`running`](Self::running) of a VM with one vCPU.
    pub(crate) fn running_one(&self, reservations: &[Message]) -> VcpuPipes {
        self.running(reservations).pop().unwrap()
    }

    /// [`running`](Self::running) over rings.
    pub(crate) fn rings(&self, reservations: &[Message]) -> Vec<VcpuRing> {
        for reservation in reservations {
            self.main.done(reservation);
        }
        self.load();
        let mut rings = self.main.rings();
        self.main.done(&request::start());
        for ring in &mut rings {
            ring.await_init();
            ring.boot(ENTRY);
        }
        rings.iter_mut().for_each(VcpuRing::resume);
        rings
    }

    /// [`rings`](Self::rings) of a VM with one vCPU.
    pub(crate) fn ring(&self, reservations: &[Message]) -> VcpuRing {
        self.rings(reservations).pop().unwrap()
    }

    /// Sees that the VMM still answers, on a connection of its own.
    pub(crate) fn assert_alive(&self) {
        self.connect().done(&request::get_shutdown_eventfd());
    }

    /// A new connection. Those that were closed count until the VMM has taken note of it, so one may be refused.
    pub(crate) fn connect(&self) -> MainSocket {
        let too_many = i64::from(Errno::MFILE.raw_os_error());
        let mut socket = None;
        test_utils::wait::until("there is room for a connection", || {
            let mut answer = self.main.ask(&request::new_connection());
            assert!(answer.errno == 0 || answer.errno == too_many, "{answer:?}");
            socket = answer.fds.pop();
            socket.is_some()
        });
        MainSocket::new(socket.unwrap())
    }

    /// Lets the plugin exit, and waits for the VMM's end.
    pub(crate) fn exit(self, code: u8) -> Ended {
        self.relay.command(&format!("exit {code}"));
        self.end()
    }

    /// Lets the plugin exit with 0, which must end the VMM well.
    pub(crate) fn finish(self) -> Ended {
        let ended = self.exit(0);
        ended.assert_success().assert_no_panic();
        ended
    }

    /// Waits for the VMM's end.
    pub(crate) fn end(self) -> Ended {
        let ended = self.running.end();
        ended.assert_no_panic();
        ended
    }

    /// Waits for the VMM's end, which must not take as long as waiting for a plugin does where the machine is not busy.
    pub(crate) fn end_soon(self) -> Ended {
        let begun = Span::begin();
        let ended = self.end();
        assert!(begun.is_within(SOON), "{begun:?}, {:?}: {ended:#?}", begun.elapsed());
        ended
    }

    /// What the VMM holds now.
    pub(crate) fn resources(&self) -> Resources {
        Resources::of(self.running.pid())
    }

    /// Sees that the VMM holds no more than `before`, as soon as it has taken note of what was closed.
    pub(crate) fn assert_holds_no_more_than(&self, before: Resources, what: &str) {
        let mut now = self.resources();
        if !test_utils::wait::holds(|| {
            now = self.resources();
            now.is_no_more_than(before)
        }) {
            panic!("{what}: grown from {before:?} to {now:?}");
        }
    }

    /// Waits for the shutdown event, obeys it, and waits for the VMM's end.
    pub(crate) fn obey(self, shutdown: &OwnedFd) -> Ended {
        assert!(raw::readable_within(shutdown, raw::LIMIT), "not told to exit");
        self.exit(0)
    }

    /// Sends a signal to the VMM.
    pub(crate) fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }
}
