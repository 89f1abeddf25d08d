//! A vCPU on KVM.

use std::cell::Cell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_regs};
use kvm_ioctls::{VcpuExit, VcpuFd};
use rustix::process::Pid;

use super::memory::Slots;
use super::run_page::RunPage;
use super::{signal, system};
use crate::kick::{KickSignal, KickState};
use crate::pending::Pending;
use crate::{Access, Direction, Error, Exit, Kick, Result, Vcpu, VcpuId, VcpuState};

thread_local! {
    /// This thread's id as the kernel knows it, asked for once. The kick signal is unblocked at the same time: the
    /// process that started this program may have left it blocked.
    static THREAD: Pid = {
        signal::unblock_kick();
        rustix::thread::gettid()
    };
}

pub(super) struct KvmVcpu {
    id: VcpuId,
    pub(super) fd: VcpuFd,
    pub(super) page: Arc<RunPage>,
    kick_state: KickState,
    runner: Arc<Runner>,
    pub(super) pending: Pending,
    synced: Cell<Synced>,
    /// The registers of [`Synced::Set`].
    set: kvm_regs,
    /// It has been told to be run again though it was ready to run.
    was_ready: bool,
    /// The access of the last exit, whose data lies in `page`.
    access: Option<Access>,
    /// The guest's memory stays mapped while the vCPU can run. Behind `fd`, so it is dropped after it.
    _slots: Arc<Slots>,
}

/// Whether `kvm_run` holds the general registers as they are (`KVM_CAP_SYNC_REGS`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Synced {
    /// The kernel does not give them.
    Never,
    /// Not before the next exit: none was made yet, or registers were set since.
    Stale,
    /// As they were at the last exit.
    Fresh,
    /// As they are to be from the next run on, which takes them with it (`kvm_dirty_regs`).
    Set,
}

/// The thread that runs the vCPU, 0 before the first run.
#[derive(Default)]
struct Runner(AtomicI32);

/// How a kick gets a vCPU out of `KVM_RUN`. It holds the page, so a kick is safe after the vCPU is gone.
struct KvmKickSignal {
    page: Arc<RunPage>,
    runner: Arc<Runner>,
}

impl KickSignal for KvmKickSignal {
    fn raise(&self) {
        self.page.raise_immediate_exit();
    }

    fn interrupt(&self) {
        if let Some(thread) = Pid::from_raw(self.runner.0.load(Ordering::SeqCst)) {
            signal::interrupt(thread);
        }
    }

    fn interrupt_again(&self) {
        // The program may have taken the handler away since, and then the signal never arrives. An error leaves what was.
        let _ = signal::ensure_kick_handler();
        // A completion in between may have lowered the flag.
        self.page.raise_immediate_exit();
        self.interrupt();
    }
}

impl KvmVcpu {
    pub(super) fn new(id: VcpuId, fd: VcpuFd, run_size: usize, gives_regs: bool, slots: Arc<Slots>) -> Result<Self> {
        let page = RunPage::of_vcpu(&fd, run_size)
            .map_err(|source| Error::System { what: "mapping a vCPU's kvm_run", source })?;
        let page = Arc::new(page);
        let synced = if gives_regs {
            page.sync_regs();
            Synced::Stale
        } else {
            Synced::Never
        };
        let runner = Arc::new(Runner::default());
        let kick_state = KickState::new(KvmKickSignal { page: Arc::clone(&page), runner: Arc::clone(&runner) });
        Ok(Self {
            id,
            fd,
            page,
            kick_state,
            runner,
            pending: Pending::new(id),
            synced: Cell::new(synced),
            set: kvm_regs::default(),
            was_ready: false,
            access: None,
            _slots: slots,
        })
    }

    /// The general registers, without an ioctl where `kvm_run` has them.
    pub(super) fn current_regs(&self) -> Result<kvm_regs> {
        if self.synced.get() == Synced::Fresh {
            return Ok(self.page.synced_regs());
        }
        self.hand_over_regs()?;
        self.fd.get_regs().map_err(system("KVM_GET_REGS"))
    }

    /// Sets the general registers. Within an exit they wait for the next run, which applies them first of all: as an ioctl
    /// would have, and for less.
    pub(super) fn change_regs(&mut self, regs: &kvm_regs) -> Result<()> {
        if matches!(self.synced.get(), Synced::Fresh | Synced::Set) {
            self.set = *regs;
            self.page.set_synced_regs(regs);
            self.synced.set(Synced::Set);
            return Ok(());
        }
        self.fd.set_regs(regs).map_err(system("KVM_SET_REGS"))
    }

    /// What is asked of the vCPU next depends on its registers, or changes them: the kernel must have those that wait, and
    /// `kvm_run` does not know them any more.
    pub(super) fn hand_over_regs(&self) -> Result<()> {
        match self.synced.get() {
            Synced::Set => {
                self.page.forget_synced_regs();
                self.synced.set(Synced::Stale);
                self.fd.set_regs(&self.set).map_err(system("KVM_SET_REGS"))
            }
            Synced::Fresh => {
                self.synced.set(Synced::Stale);
                Ok(())
            }
            Synced::Never | Synced::Stale => Ok(()),
        }
    }

    /// Whether `EAGAIN` means what it means of a vCPU that waits for a start-up interrupt: that it was woken, once with it and
    /// else for something else. Of one that was ready to run before, too, it means that the kernel could not begin, since a
    /// thread that it needs cannot be had.
    fn may_be_run_again(&mut self) -> Result<bool> {
        let was_ready = self.was_ready;
        self.was_ready = VcpuState::mp_state(self)?.mp_state == KVM_MP_STATE_RUNNABLE;
        Ok(!(was_ready && self.was_ready))
    }

    /// One `KVM_RUN`, and what it returned for.
    fn enter(&mut self) -> Result<Exit> {
        let ran = self.fd.run().map(|exit| match exit {
            VcpuExit::MemoryFault { gpa, .. } => Some(gpa),
            _ => None,
        });
        let has_regs_left = self.synced.get() == Synced::Set && self.page.has_synced_regs_to_set();
        if has_regs_left {
            // A run that found the vCPU waiting for a start-up interrupt did not come to them.
            self.hand_over_regs()?;
        } else if self.synced.get() != Synced::Never {
            self.synced.set(Synced::Fresh);
        }
        let exit = match ran {
            Ok(Some(address)) => return Err(Error::MemoryFault { vcpu: self.id, address }),
            Ok(None) => self.page.exit(),
            Err(errno) => match errno.errno() {
                libc::EINTR => Exit::Interrupted,
                libc::EAGAIN if self.may_be_run_again()? => Exit::Interrupted,
                libc::EFAULT => return Err(Error::MemoryFault { vcpu: self.id, address: 0 }),
                errno => {
                    return Err(Error::System { what: "KVM_RUN", source: io::Error::from_raw_os_error(errno) });
                }
            },
        };
        if !matches!(exit, Exit::Interrupted) {
            self.was_ready = false;
        }
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
        self.kick_state.kick_handle()
    }

    fn run(&mut self) -> Result<Exit> {
        self.pending.check_enter()?;
        let thread = THREAD.with(|thread| thread.as_raw_nonzero().get());
        self.runner.0.store(thread, Ordering::SeqCst);
        if self.kick_state.enter() {
            self.page.raise_immediate_exit();
        }
        let exit = self.enter();
        self.kick_state.leave();
        if let Ok(Exit::Interrupted) = exit {
            self.kick_state.take();
            self.page.lower_immediate_exit();
        }
        exit
    }

    fn commit(&mut self) -> Result<Exit> {
        self.pending.check_enter()?;
        self.page.raise_immediate_exit();
        let exit = self.enter();
        // A kick whose flag is lost here has its mark at the kick_state still.
        self.page.lower_immediate_exit();
        exit
    }

    fn answer(&mut self, data: &[u8]) -> Result<()> {
        self.pending.take_answer(data.len())?;
        match &self.access {
            Some(access) => self.page.set_access_data(access, data),
            // What is answered and is no access is a Hyper-V call, whose result has 8 bytes.
            None => self.page.set_hyperv_result(data.try_into().map(u64::from_le_bytes).unwrap_or_default()),
        }
        Ok(())
    }

    fn access_data(&self) -> &[u8] {
        match &self.access {
            Some(access) if access.direction() == Direction::Write => self.page.access_data(access).unwrap_or_default(),
            _ => &[],
        }
    }
}
