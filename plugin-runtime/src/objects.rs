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
use crate::refusal::Refusal;
use crate::wire::space_from_wire;

/// Bytes of a dirty log, so that tags and lengths around it fit into a response too.
const LONGEST_BITMAP: usize = MAX_RESPONSE - 16;

/// The objects of one VM.
pub(crate) struct Objects {
    by_id: BTreeMap<u32, Object>,
    /// The RAM, where the guest's writes do not exit: last addresses by first ones. Memories do not overlap.
    ram: BTreeMap<u64, u64>,
    io_events: usize,
    memory: MemoryQuota,
}

enum Object {
    Memory { slot: SlotId, start: u64, len: u64, logs_dirty: bool },
    IoEvent { at: IoEvent, event: Arc<EventFd> },
    IrqEvent { gsi: Gsi, trigger: Arc<EventFd> },
}

impl Objects {
    pub(crate) fn new(memory: MemoryQuota) -> Self {
        Self { by_id: BTreeMap::new(), ram: BTreeMap::new(), io_events: 0, memory }
    }

    /// Makes an object under `id`, from the descriptor that came with the request where it needs one: the descriptors
    /// for the plugin.
    pub(crate) fn create(
        &mut self,
        vm: &dyn Vm,
        id: u32,
        constructor: Option<Constructor>,
        fd: Option<OwnedFd>,
    ) -> Result<Vec<OwnedFd>, Refusal> {
        if self.by_id.contains_key(&id) {
            return Err(Refusal::new(Errno::EXIST, format!("there is an object of id {id}")));
        }
        if self.by_id.len() >= quota::OBJECTS {
            return Err(Refusal::new(Errno::NOSPC, format!("a plugin has at most {} objects", quota::OBJECTS)));
        }
        let (object, fds) = match constructor {
            Some(Constructor::Memory(memory)) => {
                let memfd = fd.ok_or_else(|| Refusal::new(Errno::BADF, "no descriptor came with the request"))?;
                (self.map_memory(vm, &memory, memfd)?, Vec::new())
            }
            Some(Constructor::IoEvent(_)) if self.io_events >= quota::IO_EVENTS => {
                let why = format!("a plugin has at most {} I/O events", quota::IO_EVENTS);
                return Err(Refusal::new(Errno::NOSPC, why));
            }
            Some(Constructor::IoEvent(event)) => io_event(vm, &event)?,
            Some(Constructor::IrqEvent(event)) => irq_event(vm, &event)?,
            _ => return Err(Refusal::new(Errno::NOTTY, "it says nothing that could be made")),
        };
        if let Object::IoEvent { .. } = object {
            self.io_events = self.io_events.saturating_add(1);
        }
        self.by_id.insert(id, object);
        Ok(fds)
    }

    /// Undoes what `id` stands for. The id is free afterwards, also where the kernel refused.
    pub(crate) fn destroy(&mut self, vm: &dyn Vm, id: u32) -> Result<(), Refusal> {
        let none = || Refusal::new(Errno::NOENT, format!("there is no object of id {id}"));
        match self.by_id.remove(&id).ok_or_else(none)? {
            Object::Memory { slot, start, len, .. } => {
                // What is read-only is not there.
                self.ram.remove(&start);
                vm.unmap_memory(slot).map(|()| self.memory.give_back(len))
            }
            Object::IoEvent { at, event } => {
                self.io_events = self.io_events.saturating_sub(1);
                vm.unregister_ioevent(&at, &event)
            }
            Object::IrqEvent { gsi, trigger } => vm.unregister_irqfd(gsi, &trigger),
        }
        .map_err(|error| Refusal::from(&error))
    }

    /// The last RAM that part of the addresses from `first` to `last` is: its first and its last address.
    pub(crate) fn ram_at(&self, first: u64, last: u64) -> Option<(u64, u64)> {
        let (ram_first, ram_last) = self.ram.range(..=last).next_back()?;
        (*ram_last >= first).then_some((*ram_first, *ram_last))
    }

    /// How many interrupt events the line `gsi` has.
    pub(crate) fn irq_events_of(&self, gsi: u32) -> usize {
        let is_it = |object: &&Object| matches!(object, Object::IrqEvent { gsi: of, .. } if of.0 == gsi);
        self.by_id.values().filter(is_it).count()
    }

    /// The pages of a memory that were written since the last call, one bit a page, rounded up to whole bytes. `EMSGSIZE`
    /// for more than a response carries.
    pub(crate) fn dirty_log(&self, vm: &dyn Vm, id: u32) -> Result<Vec<u8>, Refusal> {
        let Some(Object::Memory { slot, len, logs_dirty: true, .. }) = self.by_id.get(&id) else {
            return Err(Refusal::new(Errno::NOENT, format!("id {id} is no memory with a dirty log")));
        };
        let len = bitmap_len(*len).ok_or_else(|| {
            Refusal::new(Errno::MSGSIZE, format!("the dirty log of {len:#x} bytes does not fit into a response"))
        })?;
        let words = vm.dirty_log(*slot).map_err(|error| Refusal::from(&error))?;
        let mut bytes = words.as_bytes().to_vec();
        bytes.truncate(len);
        Ok(bytes)
    }

    fn map_memory(&mut self, vm: &dyn Vm, memory: &Memory, memfd: OwnedFd) -> Result<Object, Refusal> {
        // A log that could not be sent would cost the kernel two bits a page for nothing.
        let can_be_sent = bitmap_len(memory.length).is_some();
        let region = GuestMemoryRegion::new(GuestAddress(memory.start), memfd, memory.offset, memory.length)
            .map_err(|error| Refusal::from(&error))?
            .read_only(memory.read_only)
            .log_dirty(memory.dirty_log && can_be_sent);
        self.memory.take(memory.length).map_err(|errno| {
            Refusal::new(errno, format!("guest memory of {:#x} bytes is more than the plugin may map", memory.length))
        })?;
        match vm.map_memory(region) {
            Ok(slot) => {
                if !memory.read_only {
                    // A region is not empty, and its end fits.
                    let last = memory.start.saturating_add(memory.length.saturating_sub(1));
                    self.ram.insert(memory.start, last);
                }
                Ok(Object::Memory { slot, start: memory.start, len: memory.length, logs_dirty: memory.dirty_log })
            }
            Err(error) => {
                self.memory.give_back(memory.length);
                Err(Refusal::from(&error))
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

fn io_event(vm: &dyn Vm, wanted: &WireIoEvent) -> Result<(Object, Vec<OwnedFd>), Refusal> {
    let space = space_from_wire(wanted.space)?;
    // Without a length there are no bytes to compare.
    let datamatch = (wanted.length != 0).then_some(wanted.datamatch);
    let at = IoEvent::new(space, wanted.address, wanted.length, datamatch).ok_or_else(|| {
        Refusal::new(Errno::INVAL, format!("writes of {} bytes: an I/O event has 0, 1, 2, 4 or 8", wanted.length))
    })?;
    let event = event()?;
    let copies = vec![copy(&event)?];
    vm.register_ioevent(&at, &event).map_err(|error| Refusal::from(&error))?;
    Ok((Object::IoEvent { at, event }, copies))
}

fn irq_event(vm: &dyn Vm, wanted: &IrqEvent) -> Result<(Object, Vec<OwnedFd>), Refusal> {
    let gsi = Gsi(wanted.irq_id);
    let (trigger, resample) = (event()?, event()?);
    let copies = vec![copy(&trigger)?, copy(&resample)?];
    vm.register_irqfd(gsi, &trigger, &resample).map_err(|error| Refusal::from(&error))?;
    Ok((Object::IrqEvent { gsi, trigger }, copies))
}

/// An eventfd that blocks and counts, as the protocol hands them out.
fn event() -> Result<Arc<EventFd>, Refusal> {
    EventFd::new(libc::EFD_CLOEXEC).map(Arc::new).map_err(|error| Refusal::from(&error))
}

#[allow(unsafe_code, reason = "vmm-sys-util's EventFd lends out only a raw descriptor")]
fn copy(event: &EventFd) -> Result<OwnedFd, Refusal> {
    // SAFETY: the eventfd is open as long as it is borrowed.
    let borrowed = unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) };
    borrowed.try_clone_to_owned().map_err(|error| Refusal::from(&error))
}
