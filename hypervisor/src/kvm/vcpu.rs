//! A vCPU on KVM.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use kvm_bindings::{kvm_mp_state, kvm_regs, kvm_sregs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::process::Pid;

use super::run_page::RunPage;
use super::vm::Slots;
use super::{signal, system};
use crate::kick::{Bell, Door};
use crate::pending::Pending;
use crate::{Access, Direction, Error, Exit, Kick, Result, Vcpu, VcpuId};

thread_local! {
    /// This thread's id as the kernel knows it, asked for once. The kick signal is let through at the same time: whoever
    /// started this program may have left it blocked.
    static THREAD: Pid = {
        signal::let_kick_through();
        rustix::thread::gettid()
    };
}

pub(super) struct KvmVcpu {
    id: VcpuId,
    fd: VcpuFd,
    page: Arc<RunPage>,
    door: Door,
    runner: Arc<Runner>,
    pending: Pending,
    /// The access of the last exit, whose data lies in `page`.
    access: Option<Access>,
    /// The guest's memory stays mapped while the vCPU can run. Behind `fd`, so it is dropped after it.
    _slots: Arc<Slots>,
}

/// The thread that runs the vCPU, 0 before the first run.
#[derive(Default)]
struct Runner(AtomicI32);

/// How a kick gets a vCPU out of `KVM_RUN`. It holds the page, so a kick is safe after the vCPU is gone.
struct KvmBell {
    page: Arc<RunPage>,
    runner: Arc<Runner>,
}

impl Bell for KvmBell {
    fn raise(&self) {
        self.page.raise_immediate_exit();
    }

    fn interrupt(&self) {
        if let Some(thread) = Pid::from_raw(self.runner.0.load(Ordering::SeqCst)) {
            signal::interrupt(thread);
        }
    }
}

impl KvmVcpu {
    pub(super) fn new(id: VcpuId, fd: VcpuFd, run_size: usize, slots: Arc<Slots>) -> Result<Self> {
        let page = RunPage::of_vcpu(&fd, run_size)
            .map_err(|source| Error::System { what: "mapping a vCPU's kvm_run", source })?;
        let page = Arc::new(page);
        let runner = Arc::new(Runner::default());
        let door = Door::new(KvmBell { page: Arc::clone(&page), runner: Arc::clone(&runner) });
        Ok(Self { id, fd, page, door, runner, pending: Pending::new(id), access: None, _slots: slots })
    }

    /// One `KVM_RUN`, and what it returned for.
    fn enter(&mut self) -> Result<Exit> {
        let exit = match self.fd.run() {
            Ok(VcpuExit::MemoryFault { gpa, .. }) => return Err(Error::MemoryFault { vcpu: self.id, address: gpa }),
            Ok(_) => self.page.exit(),
            Err(errno) => match errno.errno() {
                // EAGAIN: a vCPU that waited for a start-up interrupt was woken for something else.
                libc::EINTR | libc::EAGAIN => Exit::Interrupted,
                libc::EFAULT => return Err(Error::MemoryFault { vcpu: self.id, address: 0 }),
                errno => {
                    return Err(Error::System { what: "KVM_RUN", source: io::Error::from_raw_os_error(errno) });
                }
            },
        };
        self.pending.after(&exit);
        self.access = match exit {
            Exit::Access(access) => Some(access),
            _ => None,
        };
        Ok(exit)
    }
}

impl Vcpu for KvmVcpu {
    fn id(&self) -> VcpuId {
        self.id
    }

    fn kick_handle(&self) -> Kick {
        self.door.kick_handle()
    }

    fn run(&mut self) -> Result<Exit> {
        self.pending.check_enter()?;
        let thread = THREAD.with(|thread| thread.as_raw_nonzero().get());
        self.runner.0.store(thread, Ordering::SeqCst);
        if self.door.enter() {
            self.page.raise_immediate_exit();
        }
        let exit = self.enter();
        self.door.leave();
        if let Ok(Exit::Interrupted) = exit {
            self.door.take();
            self.page.lower_immediate_exit();
        }
        exit
    }

    fn commit(&mut self) -> Result<Exit> {
        self.pending.check_enter()?;
        self.page.raise_immediate_exit();
        let exit = self.enter();
        // A kick whose flag is lost here has its mark at the door still.
        self.page.lower_immediate_exit();
        exit
    }

    fn answer(&mut self, data: &[u8]) -> Result<()> {
        self.pending.take_answer(data.len())?;
        if let Some(access) = &self.access {
            self.page.set_access_data(access, data);
        }
        Ok(())
    }

    fn access_data(&self) -> &[u8] {
        match &self.access {
            Some(access) if access.direction() == Direction::Write => self.page.access_data(access).unwrap_or_default(),
            _ => &[],
        }
    }

    fn regs(&self) -> Result<kvm_regs> {
        self.fd.get_regs().map_err(system("KVM_GET_REGS"))
    }

    fn set_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        self.pending.check_set()?;
        self.fd.set_regs(regs).map_err(system("KVM_SET_REGS"))
    }

    fn sregs(&self) -> Result<kvm_sregs> {
        self.fd.get_sregs().map_err(system("KVM_GET_SREGS"))
    }

    fn set_sregs(&mut self, sregs: &kvm_sregs) -> Result<()> {
        self.pending.check_set()?;
        self.fd.set_sregs(sregs).map_err(system("KVM_SET_SREGS"))
    }

    fn mp_state(&self) -> Result<kvm_mp_state> {
        self.fd.get_mp_state().map_err(system("KVM_GET_MP_STATE"))
    }

    fn set_mp_state(&mut self, state: &kvm_mp_state) -> Result<()> {
        self.fd.set_mp_state(*state).map_err(system("KVM_SET_MP_STATE"))
    }
}
