//! The guest's memory.

use plugin_sdk::{MappedMemory, MemoryFlags, PAGE_SIZE};

use crate::connection::Connection;
use crate::errno::{Errno, Result};
use crate::export::export;
use crate::object::Object;
use crate::pointers::{Descriptor, Handle, Out, Owner, Room};

/// `struct crosvm_memory`.
pub(crate) struct Memory {
    mapped: MappedMemory,
    /// Bytes of its dirty log: a bit a page.
    log_length: usize,
}

/// As many bytes as have room for a bit for each page.
fn log_length(length: u64) -> Result<usize> {
    let pages = length.div_ceil(PAGE_SIZE);
    usize::try_from(pages.div_ceil(8)).map_err(|_| Errno::INVAL)
}

export! {
    fn crosvm_create_memory(
        connection: Handle<Connection>,
        fd: Descriptor,
        offset: u64,
        length: u64,
        start: u64,
        read_only: bool,
        dirty_log: bool,
        out: Out<*const Object<Memory>>,
    ) -> Result<()> {
        let out = out.check()?;
        let end = offset.checked_add(length).ok_or(Errno::OVERFLOW)?;
        let flags = MemoryFlags { read_only, dirty_log };
        let mapped = connection.sdk()?.map_fd(fd.borrow()?, offset..end, start, flags)?;
        out.set_new(Object::new(Memory { mapped, log_length: log_length(length)? }));
        Ok(())
    }

    fn crosvm_destroy_memory(connection: Handle<Connection>, memory: Owner<Object<Memory>>) -> Result<()> {
        let mut sdk = connection.sdk()?;
        if let Some(memory) = memory.handle()?.get()?.take()? {
            sdk.unmap(memory.mapped)?;
        }
        memory.destroy()
    }

    fn crosvm_memory_get_dirty_log(
        connection: Handle<Connection>,
        memory: Handle<Object<Memory>>,
        log: Room<u8>,
    ) -> Result<()> {
        log.check(1)?;
        memory.get()?.with(|memory| {
            let found = connection.sdk()?.dirty_log(&memory.mapped)?;
            // C has room for so many, whatever the VMM says.
            log.fill(found.get(..memory.log_length).ok_or(Errno::PROTO)?)
        })
    }
}
