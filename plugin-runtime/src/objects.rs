//! What a plugin has made, by the ids it chose.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use hypervisor::{EventFd, Gsi, GuestAddress, GuestMemoryRegion, IoEvent, PAGE_SIZE, SlotId, Vm};
use plugin_proto::limits::MAX_RESPONSE;
use plugin_proto::messages::main_request::create::{Constructor, IoEvent as WireIoEvent, IrqEvent, Memory};
use zerocopy::IntoBytes;

use crate::errno::Errno;
use crate::memory_quota::MemoryQuota;
use crate::quota;
use crate::wire::space_from_wire;

/// Bytes of a dirty log, so that tags and lengths around it fit into a response too.
const LONGEST_BITMAP: usize = MAX_RESPONSE - 16;

/// The objects of one VM.
pub(crate) struct Objects {
    by_id: BTreeMap<u32, Object>,
    io_events: usize,
    memory: MemoryQuota,
}

enum Object {
    Memory { slot: SlotId, len: u64, logs_dirty: bool },
    IoEvent { at: IoEvent, event: Arc<EventFd> },
    IrqEvent { gsi: Gsi, trigger: Arc<EventFd> },
}

impl Objects {
    pub(crate) fn new(memory: MemoryQuota) -> Self {
        Self { by_id: BTreeMap::new(), io_events: 0, memory }
    }

    /// Makes an object under `id`, from the descriptor that came with the request where it needs one: the descriptors
    /// for the plugin.
    pub(crate) fn create(
        &mut self,
        vm: &dyn Vm,
        id: u32,
        constructor: Option<Constructor>,
        fd: Option<OwnedFd>,
    ) -> Result<Vec<OwnedFd>, Errno> {
        if self.by_id.contains_key(&id) {
            return Err(Errno::EXIST);
        }
        if self.by_id.len() >= quota::OBJECTS {
            return Err(Errno::NOSPC);
        }
        let (object, fds) = match constructor {
            Some(Constructor::Memory(memory)) => (self.map_memory(vm, &memory, fd.ok_or(Errno::BADF)?)?, Vec::new()),
            Some(Constructor::IoEvent(_)) if self.io_events >= quota::IO_EVENTS => return Err(Errno::NOSPC),
            Some(Constructor::IoEvent(event)) => io_event(vm, &event)?,
            Some(Constructor::IrqEvent(event)) => irq_event(vm, &event)?,
            _ => return Err(Errno::NOTTY),
        };
        if let Object::IoEvent { .. } = object {
            self.io_events = self.io_events.saturating_add(1);
        }
        self.by_id.insert(id, object);
        Ok(fds)
    }

    /// Undoes what `id` stands for. The id is free afterwards, also where the kernel refused.
    pub(crate) fn destroy(&mut self, vm: &dyn Vm, id: u32) -> Result<(), Errno> {
        match self.by_id.remove(&id).ok_or(Errno::NOENT)? {
            Object::Memory { slot, len, .. } => vm.unmap_memory(slot).map(|()| self.memory.give_back(len)),
            Object::IoEvent { at, event } => {
                self.io_events = self.io_events.saturating_sub(1);
                vm.unregister_ioevent(&at, &event)
            }
            Object::IrqEvent { gsi, trigger } => vm.unregister_irqfd(gsi, &trigger),
        }
        .map_err(|error| Errno::from(&error))
    }

    /// The pages of a memory that were written since the last call, one bit a page, rounded up to whole bytes. `EMSGSIZE`
    /// for more than a response carries.
    pub(crate) fn dirty_log(&self, vm: &dyn Vm, id: u32) -> Result<Vec<u8>, Errno> {
        let Some(Object::Memory { slot, len, logs_dirty: true }) = self.by_id.get(&id) else {
            return Err(Errno::NOENT);
        };
        let len = bitmap_len(*len).ok_or(Errno::MSGSIZE)?;
        let words = vm.dirty_log(*slot).map_err(|error| Errno::from(&error))?;
        let mut bytes = words.as_bytes().to_vec();
        bytes.truncate(len);
        Ok(bytes)
    }

    fn map_memory(&mut self, vm: &dyn Vm, memory: &Memory, memfd: OwnedFd) -> Result<Object, Errno> {
        // A log that could not be sent would cost the kernel two bits a page for nothing.
        let can_be_sent = bitmap_len(memory.length).is_some();
        let region = GuestMemoryRegion::new(GuestAddress(memory.start), memfd, memory.offset, memory.length)
            .map_err(|error| Errno::from(&error))?
            .read_only(memory.read_only)
            .log_dirty(memory.dirty_log && can_be_sent);
        self.memory.take(memory.length)?;
        match vm.map_memory(region) {
            Ok(slot) => Ok(Object::Memory { slot, len: memory.length, logs_dirty: memory.dirty_log }),
            Err(error) => {
                self.memory.give_back(memory.length);
                Err(Errno::from(&error))
            }
        }
    }
}

/// Bytes of the dirty log of a memory of `len` bytes, one bit a page, rounded up to whole bytes; `None` for more than a response
/// carries.
fn bitmap_len(len: u64) -> Option<usize> {
    let bytes = usize::try_from(len.div_ceil(PAGE_SIZE).div_ceil(8)).ok()?;
    (bytes <= LONGEST_BITMAP).then_some(bytes)
}

fn io_event(vm: &dyn Vm, wanted: &WireIoEvent) -> Result<(Object, Vec<OwnedFd>), Errno> {
    let space = space_from_wire(wanted.space)?;
    // Without a length there are no bytes to compare.
    let datamatch = (wanted.length != 0).then_some(wanted.datamatch);
    let at = IoEvent::new(space, wanted.address, wanted.length, datamatch).ok_or(Errno::INVAL)?;
    let event = event()?;
    let copies = vec![copy(&event)?];
    vm.register_ioevent(&at, &event).map_err(|error| Errno::from(&error))?;
    Ok((Object::IoEvent { at, event }, copies))
}

fn irq_event(vm: &dyn Vm, wanted: &IrqEvent) -> Result<(Object, Vec<OwnedFd>), Errno> {
    let gsi = Gsi(wanted.irq_id);
    let (trigger, resample) = (event()?, event()?);
    let copies = vec![copy(&trigger)?, copy(&resample)?];
    vm.register_irqfd(gsi, &trigger, &resample).map_err(|error| Errno::from(&error))?;
    Ok((Object::IrqEvent { gsi, trigger }, copies))
}

/// An eventfd that blocks and counts, as the protocol hands them out.
fn event() -> Result<Arc<EventFd>, Errno> {
    EventFd::new(libc::EFD_CLOEXEC).map(Arc::new).map_err(|error| Errno::from(&error))
}

#[allow(unsafe_code, reason = "vmm-sys-util's EventFd lends out only a raw descriptor")]
fn copy(event: &EventFd) -> Result<OwnedFd, Errno> {
    // SAFETY: the eventfd is open as long as it is borrowed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
    borrowed.try_clone_to_owned().map_err(|error| Errno::from(&error))
}
