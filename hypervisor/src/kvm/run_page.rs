//! The `kvm_run` structure that KVM shares with its vCPU's owner.
//!
//! Kernel and kicking threads write it while we hold it, so it is only touched through copies of single fields and an
//! atomic, never through a reference to the whole.
#![allow(unsafe_code, reason = "shared with the kernel through mmap")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::{
    KVM_COALESCED_MMIO_PAGE_OFFSET, KVM_EXIT_FAIL_ENTRY, KVM_EXIT_HLT, KVM_EXIT_HYPERV, KVM_EXIT_HYPERV_HCALL,
    KVM_EXIT_HYPERV_SYNIC, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_IO, KVM_EXIT_IO_IN, KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN, KVM_SYNC_X86_REGS, kvm_regs, kvm_run,
};
use kvm_ioctls::VcpuFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::{Access, AddressSpace, Direction, Exit, InternalError, MAX_ACCESS_BYTES, PAGE_SIZE, SynicWrite};

/// A vCPU's `kvm_run` page and the data page behind it.
pub(super) struct RunPage {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping lives as long as the value, and all access goes through raw copies; see the module's head.
unsafe impl Send for RunPage {}
// SAFETY: what other threads touch is `immediate_exit`, which is atomic, and the page of coalesced writes: see `coalesced.rs`.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// The pages of a vCPU, `len` bytes as `KVM_GET_VCPU_MMAP_SIZE` says.
    pub(super) fn of_vcpu(vcpu: &VcpuFd, len: usize) -> std::io::Result<Self> {
        // SAFETY: the descriptor is open as long as the vCPU is borrowed.
        Self::map(unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) }, len)
    }

    fn map(vcpu: BorrowedFd<'_>, len: usize) -> std::io::Result<Self> {
        if len < size_of::<kvm_run>() {
            return Err(std::io::Error::other("KVM_GET_VCPU_MMAP_SIZE is smaller than kvm_run"));
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh shared mapping at an address the kernel chooses.
        let base = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, vcpu, 0) }?;
        let base = NonNull::new(base.cast()).ok_or_else(|| std::io::Error::other("mmap gave address 0"))?;
        Ok(Self { base, len })
    }

    fn run(&self) -> *mut kvm_run {
        self.base.as_ptr().cast()
    }

    /// `kvm_run.immediate_exit`: while not 0, `KVM_RUN` finishes what is pending and returns `EINTR`.
    pub(super) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: the field lies within the mapping, which outlives the reference; nobody accesses it otherwise.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.run()).immediate_exit) }
    }

    pub(super) fn raise_immediate_exit(&self) {
        self.immediate_exit().store(1, Ordering::SeqCst);
    }

    pub(super) fn lower_immediate_exit(&self) {
        self.immediate_exit().store(0, Ordering::SeqCst);
    }

    /// What the last `KVM_RUN` exited for.
    pub(super) fn exit(&self) -> Exit {
        // SAFETY: within the mapping; the kernel writes it only inside KVM_RUN.
        let reason = unsafe { (*self.run()).exit_reason };
        match reason {
            KVM_EXIT_IO => self.pio().map_or(Exit::Unknown(reason), Exit::Access),
            KVM_EXIT_MMIO => self.mmio().map_or(Exit::Unknown(reason), Exit::Access),
            KVM_EXIT_HYPERV => self.hyperv().unwrap_or(Exit::Unknown(reason)),
            KVM_EXIT_HLT => Exit::Halted,
            KVM_EXIT_SHUTDOWN => Exit::Shutdown,
            KVM_EXIT_INTR => Exit::Interrupted,
            KVM_EXIT_INTERNAL_ERROR => Exit::InternalError(self.internal_error()),
            KVM_EXIT_FAIL_ENTRY => {
                // SAFETY: the exit reason says that this member of the union was written.
                let fail_entry = unsafe { (*self.run()).__bindgen_anon_1.fail_entry };
                Exit::EntryFailed(fail_entry.hardware_entry_failure_reason)
            }
            other => Exit::Unknown(other),
        }
    }

    /// Asks for the general registers with each exit (`KVM_CAP_SYNC_REGS`).
    pub(super) fn sync_regs(&self) {
        // SAFETY: within the mapping; the kernel reads it only inside KVM_RUN, which needs the vCPU that calls us.
        unsafe { (*self.run()).kvm_valid_regs = u64::from(KVM_SYNC_X86_REGS) };
    }

    /// The general registers as the last `KVM_RUN` left them, if they were asked for before it.
    pub(super) fn synced_regs(&self) -> kvm_regs {
        // SAFETY: within the mapping, plain integers; the kernel writes them only inside KVM_RUN.
        unsafe { (*self.run()).s.regs.regs }
    }

    /// Has the next `KVM_RUN` set the general registers before all else. The caller is the vCPU, outside of `KVM_RUN`.
    pub(super) fn set_synced_regs(&self, regs: &kvm_regs) {
        // SAFETY: within the mapping, plain integers; the kernel reads them only inside KVM_RUN, which needs the vCPU that
        // calls us.
        unsafe {
            (*self.run()).s.regs.regs = *regs;
            (*self.run()).kvm_dirty_regs = u64::from(KVM_SYNC_X86_REGS);
        }
    }

    /// Takes that back.
    pub(super) fn forget_synced_regs(&self) {
        // SAFETY: as in `set_synced_regs`.
        unsafe { (*self.run()).kvm_dirty_regs = 0 };
    }

    /// Whether there are registers to be set still: the kernel says here that it has done it.
    pub(super) fn has_synced_regs_to_set(&self) -> bool {
        // SAFETY: within the mapping; the kernel writes it only inside KVM_RUN.
        unsafe { (*self.run()).kvm_dirty_regs != 0 }
    }

    /// Where the page of writes that the VM coalesces begins, if the mapping reaches so far.
    pub(super) fn coalesced(&self) -> Option<NonNull<u8>> {
        const OFFSET: usize = PAGE_SIZE as usize * KVM_COALESCED_MMIO_PAGE_OFFSET as usize;
        const END: usize = OFFSET + PAGE_SIZE as usize;
        if END > self.len {
            return None;
        }
        // SAFETY: within the mapping.
        Some(unsafe { self.base.add(OFFSET) })
    }

    /// Puts the result of a Hyper-V call where the kernel looks for it. The caller is the vCPU, outside of `KVM_RUN`.
    pub(super) fn set_hyperv_result(&self, result: u64) {
        // SAFETY: within the mapping; the kernel reads it only inside KVM_RUN, which needs the vCPU that calls us.
        unsafe { (*self.run()).__bindgen_anon_1.hyperv.u.hcall.result = result };
    }

    fn hyperv(&self) -> Option<Exit> {
        // SAFETY: called for KVM_EXIT_HYPERV, for which the kernel wrote this member.
        let hyperv = unsafe { (*self.run()).__bindgen_anon_1.hyperv };
        match hyperv.type_ {
            KVM_EXIT_HYPERV_HCALL => {
                // SAFETY: the type says that this member was written.
                let call = unsafe { hyperv.u.hcall };
                Some(Exit::HypervCall { input: call.input, params: call.params })
            }
            KVM_EXIT_HYPERV_SYNIC => {
                // SAFETY: the type says that this member was written.
                let synic = unsafe { hyperv.u.synic };
                Some(Exit::HypervSynic(SynicWrite {
                    msr: synic.msr,
                    control: synic.control,
                    evt_page: synic.evt_page,
                    msg_page: synic.msg_page,
                }))
            }
            _ => None,
        }
    }

    fn pio(&self) -> Option<Access> {
        // SAFETY: called for KVM_EXIT_IO, for which the kernel wrote this member.
        let io = unsafe { (*self.run()).__bindgen_anon_1.io };
        let direction = if u32::from(io.direction) == KVM_EXIT_IO_IN { Direction::Read } else { Direction::Write };
        let count = u16::try_from(io.count).ok()?;
        let access = Access::new(AddressSpace::Pio, u64::from(io.port), direction, io.size, count)?;
        // The data must lie within the mapping, or there is nothing to work with.
        let data = self.bytes(usize::try_from(io.data_offset).ok()?, access.len())?;
        Some(match direction {
            Direction::Read => access,
            Direction::Write => access.with_data(data),
        })
    }

    fn mmio(&self) -> Option<Access> {
        // SAFETY: called for KVM_EXIT_MMIO, for which the kernel wrote this member.
        let mmio = unsafe { (*self.run()).__bindgen_anon_1.mmio };
        let data = mmio.data.get(..usize::try_from(mmio.len).ok()?)?;
        if mmio.is_write != 0 {
            Access::write(AddressSpace::Mmio, mmio.phys_addr, data)
        } else {
            Access::read(AddressSpace::Mmio, mmio.phys_addr, u8::try_from(data.len()).ok()?)
        }
    }

    fn internal_error(&self) -> InternalError {
        // SAFETY: called for KVM_EXIT_INTERNAL_ERROR, for which the kernel wrote this member.
        let internal = unsafe { (*self.run()).__bindgen_anon_1.internal };
        let mut data = [0; 6];
        let words = data.len().min(internal.ndata as usize);
        for (to, from) in data.iter_mut().zip(internal.data.iter().take(words)) {
            *to = *from;
        }
        InternalError { suberror: internal.suberror, data, words: words as u8 }
    }

    /// The data of the access of the last exit, as long as no `KVM_RUN` came after it.
    pub(super) fn access_data(&self, access: &Access) -> Option<&[u8]> {
        self.bytes(self.data_offset(access)?, access.len())
    }

    /// Puts the answer of a read where the kernel looks for it. The caller is the vCPU, outside of `KVM_RUN`.
    pub(super) fn set_access_data(&self, access: &Access, data: &[u8]) {
        let Some(offset) = self.data_offset(access) else { return };
        if self.bytes(offset, data.len()).is_some() {
            // SAFETY: `bytes` says that the range lies within the mapping; the kernel reads it only inside KVM_RUN,
            // which needs the vCPU that calls us, and `access_data` lends its slices out by the vCPU's own borrow.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.base.as_ptr().add(offset), data.len()) };
        }
    }

    fn data_offset(&self, access: &Access) -> Option<usize> {
        match access.space() {
            // SAFETY: the access was made of this member, which stands until the next KVM_RUN.
            AddressSpace::Pio => usize::try_from(unsafe { (*self.run()).__bindgen_anon_1.io.data_offset }).ok(),
            AddressSpace::Mmio => {
                // SAFETY: the pointer stays within the mapping; nothing is read.
                let data = unsafe { &raw const (*self.run()).__bindgen_anon_1.mmio.data };
                (data as usize).checked_sub(self.base.as_ptr() as usize)
            }
        }
    }

    fn bytes(&self, offset: usize, len: usize) -> Option<&[u8]> {
        if len > MAX_ACCESS_BYTES || offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: within the mapping; the kernel writes it only inside KVM_RUN, which needs the vCPU mutably.
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), len) })
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: base and length are those of the mapping made in `map`; no reference into it can be left. That it
        // fails cannot happen with them, and would only leak.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, OwnedFd};

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    /// Pages as a kernel could have left them.
    fn page(fill: impl FnOnce(&mut kvm_run)) -> RunPage {
        let memfd: OwnedFd = memfd_create("kvm_run", MemfdFlags::empty()).unwrap();
        ftruncate(&memfd, 3 * 4096).unwrap();
        let page = RunPage::map(memfd.as_fd(), 3 * 4096).unwrap();
        // SAFETY: the mapping is ours alone and large enough.
        fill(unsafe { &mut *page.run() });
        page
    }

    fn pio(direction: u8, size: u8, count: u32, data_offset: u64) -> RunPage {
        page(|run| {
            run.exit_reason = KVM_EXIT_IO;
            run.__bindgen_anon_1.io.direction = direction;
            run.__bindgen_anon_1.io.size = size;
            run.__bindgen_anon_1.io.port = 0x3f8;
            run.__bindgen_anon_1.io.count = count;
            run.__bindgen_anon_1.io.data_offset = data_offset;
        })
    }

    fn mmio(is_write: u8, len: u32) -> RunPage {
        page(|run| {
            run.exit_reason = KVM_EXIT_MMIO;
            run.__bindgen_anon_1.mmio.phys_addr = 0xd000;
            run.__bindgen_anon_1.mmio.data = [1, 2, 3, 4, 5, 6, 7, 8];
            run.__bindgen_anon_1.mmio.len = len;
            run.__bindgen_anon_1.mmio.is_write = is_write;
        })
    }

    #[test]
    fn a_port_exit_keeps_width_and_count_apart() {
        let Exit::Access(access) = pio(0, 2, 512, 4096).exit() else { panic!("no access") };
        assert_eq!((access.width(), access.count(), access.len()), (2, 512, 1024));
        assert_eq!(access.direction(), Direction::Read);
    }

    #[test]
    fn an_mmio_exit_may_have_an_odd_length() {
        let Exit::Access(access) = mmio(1, 3).exit() else { panic!("no access") };
        assert_eq!(access.inline_data(), Some(&[1, 2, 3][..]));
    }

    #[test]
    fn an_answer_lands_where_the_kernel_looks_for_it() {
        let page = mmio(0, 4);
        let Exit::Access(access) = page.exit() else { panic!("no access") };
        page.set_access_data(&access, &[9, 9, 9, 9]);
        assert_eq!(page.access_data(&access), Some(&[9, 9, 9, 9][..]));

        let page = pio(0, 1, 1, 4096);
        let Exit::Access(access) = page.exit() else { panic!("no access") };
        page.set_access_data(&access, &[7]);
        assert_eq!(page.access_data(&access), Some(&[7][..]));
    }

    #[test]
    fn a_hyperv_call_is_read_and_its_result_lands_where_the_kernel_looks_for_it() {
        let page = page(|run| {
            run.exit_reason = KVM_EXIT_HYPERV;
            run.__bindgen_anon_1.hyperv.type_ = KVM_EXIT_HYPERV_HCALL;
            run.__bindgen_anon_1.hyperv.u.hcall.input = 0x1_005c;
            run.__bindgen_anon_1.hyperv.u.hcall.params = [3, 4];
        });
        assert_eq!(page.exit(), Exit::HypervCall { input: 0x1_005c, params: [3, 4] });
        page.set_hyperv_result(0x1234_5678_9abc_def0);
        // SAFETY: the mapping is the test's alone.
        assert_eq!(unsafe { (*page.run()).__bindgen_anon_1.hyperv.u.hcall.result }, 0x1234_5678_9abc_def0);
        assert_eq!(page.exit(), Exit::HypervCall { input: 0x1_005c, params: [3, 4] });
    }

    #[test]
    fn a_synic_exit_tells_the_msr_and_the_pages() {
        let page = page(|run| {
            run.exit_reason = KVM_EXIT_HYPERV;
            run.__bindgen_anon_1.hyperv.type_ = KVM_EXIT_HYPERV_SYNIC;
            run.__bindgen_anon_1.hyperv.u.synic.msr = 0x4000_0080;
            run.__bindgen_anon_1.hyperv.u.synic.control = 1;
            run.__bindgen_anon_1.hyperv.u.synic.evt_page = 0x5001;
            run.__bindgen_anon_1.hyperv.u.synic.msg_page = 0x6001;
        });
        let exit = Exit::HypervSynic(SynicWrite { msr: 0x4000_0080, control: 1, evt_page: 0x5001, msg_page: 0x6001 });
        assert_eq!(page.exit(), exit);
    }

    #[test]
    fn synced_registers_are_asked_for_and_read() {
        let page = page(|run| {
            run.s.regs.regs = kvm_regs { rax: 7, rip: 0x1000, ..Default::default() };
        });
        page.sync_regs();
        // SAFETY: the mapping is the test's alone.
        assert_eq!(unsafe { (*page.run()).kvm_valid_regs }, 1);
        assert_eq!(page.synced_regs(), kvm_regs { rax: 7, rip: 0x1000, ..Default::default() });
    }

    #[test]
    fn nonsense_from_the_kernel_is_an_unknown_exit() {
        assert_eq!(mmio(0, 9).exit(), Exit::Unknown(KVM_EXIT_MMIO));
        assert_eq!(mmio(0, 0).exit(), Exit::Unknown(KVM_EXIT_MMIO));
        assert_eq!(pio(1, 4, 4096, 4096).exit(), Exit::Unknown(KVM_EXIT_IO));
        assert_eq!(pio(1, 1, 1, 3 * 4096).exit(), Exit::Unknown(KVM_EXIT_IO));
        let hyperv_debugger = page(|run| {
            run.exit_reason = KVM_EXIT_HYPERV;
            run.__bindgen_anon_1.hyperv.type_ = 3;
        });
        assert_eq!(hyperv_debugger.exit(), Exit::Unknown(KVM_EXIT_HYPERV));
        assert_eq!(page(|run| run.exit_reason = 4711).exit(), Exit::Unknown(4711));
    }

    #[test]
    fn an_internal_error_carries_the_kernels_words() {
        let page = page(|run| {
            run.exit_reason = KVM_EXIT_INTERNAL_ERROR;
            run.__bindgen_anon_1.internal.suberror = 1;
            run.__bindgen_anon_1.internal.ndata = 2;
            // SAFETY: a plain array member.
            unsafe { run.__bindgen_anon_1.internal.data[..2].copy_from_slice(&[5, 6]) };
        });
        let error = InternalError { suberror: 1, data: [5, 6, 0, 0, 0, 0], words: 2 };
        assert_eq!(page.exit(), Exit::InternalError(error));
    }
}
