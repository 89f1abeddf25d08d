//! The two pipes between a vCPU and the plugin.

use std::os::fd::OwnedFd;

use plugin_proto::limits::PIPE_SIZE;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::error::{Error, Result};

/// All four ends. The plugin's stay here too, so that `get_vcpus` can hand them out again; so the end of a plugin is
/// learned from its process, never from a pipe.
#[derive(Debug)]
pub(crate) struct VcpuPipes {
    /// Requests come out of here. Not blocking.
    pub(crate) requests: OwnedFd,
    /// Responses go in here. Not blocking.
    pub(crate) responses: OwnedFd,
    plugin_writes: OwnedFd,
    plugin_reads: OwnedFd,
}

impl VcpuPipes {
    pub(crate) fn new() -> Result<Self> {
        let (requests, plugin_writes) = pipe()?;
        let (plugin_reads, responses) = pipe()?;
        for end in [&requests, &responses] {
            // Our ends are open files of their own: the plugin's stay blocking.
            let flags = fcntl_getfl(end).map_err(Error::set_up("reading a vCPU pipe's flags"))?;
            fcntl_setfl(end, flags | OFlags::NONBLOCK).map_err(Error::set_up("making a vCPU pipe non-blocking"))?;
        }
        Ok(Self { requests, responses, plugin_writes, plugin_reads })
    }

    /// Copies of the plugin's ends: the one it writes, then the one it reads.
    pub(crate) fn plugin_ends(&self) -> std::io::Result<[OwnedFd; 2]> {
        Ok([self.plugin_writes.try_clone()?, self.plugin_reads.try_clone()?])
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::set_up("making a vCPU pipe"))?;
    if let Err(errno) = fcntl_setpipe_size(&write, PIPE_SIZE) {
        tracing::debug!(%errno, "a vCPU pipe keeps its default size");
    }
    Ok((read, write))
}
