//! Eventfds that the guest's writes fire.

use plugin_sdk::{IoEvent, WriteMatch};
use std::os::fd::{AsFd, AsRawFd, RawFd};

use crate::connection::Connection;
use crate::errno::{Errno, Result};
use crate::export::export;
use crate::object::Object;
use crate::pointers::{Handle, In, Out, Owner};
use crate::ranges;

/// Which writes count: `len` bytes that are those at `datamatch`.
fn writes(len: u32, datamatch: &In<u8>) -> Result<WriteMatch> {
    let data = match len {
        0 => return Ok(WriteMatch::Any),
        1 | 2 | 4 | 8 => datamatch.read_all(len)?,
        _ => return Err(Errno::INVAL),
    };
    match *data.as_slice() {
        [a] => Ok(WriteMatch::U8(a)),
        [a, b] => Ok(WriteMatch::U16(u16::from_ne_bytes([a, b]))),
        [a, b, c, d] => Ok(WriteMatch::U32(u32::from_ne_bytes([a, b, c, d]))),
        [a, b, c, d, e, f, g, h] => Ok(WriteMatch::U64(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))),
        _ => Err(Errno::INVAL),
    }
}

export! {
    fn crosvm_create_io_event(
        connection: Handle<Connection>,
        space: u32,
        addr: u64,
        len: u32,
        datamatch: In<u8>,
        out: Out<*const Object<IoEvent>>,
    ) -> Result<()> {
        let out = out.check()?;
        let (space, writes) = (ranges::space(space)?, writes(len, &datamatch)?);
        out.set_new(Object::new(connection.sdk()?.create_io_event(space, addr, writes)?));
        Ok(())
    }

    fn crosvm_destroy_io_event(connection: Handle<Connection>, io: Owner<Object<IoEvent>>) -> Result<()> {
        let mut sdk = connection.sdk()?;
        if let Some(event) = io.handle()?.get()?.take()? {
            sdk.destroy_io_event(event)?;
        }
        io.destroy()
    }

    fn crosvm_io_event_fd(io: Handle<Object<IoEvent>>) -> Result<RawFd> {
        io.get()?.with(|event| Ok(event.as_fd().as_raw_fd()))
    }
}
