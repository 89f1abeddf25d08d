//! Connections, and what they ask about the life of the VM.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard};

use libc::c_void;

use crate::errno::{Errno, Result};
use crate::export::export;
use crate::pointers::{Handle, Out, Owner, alone};
use crate::stats;
use crate::vcpu::Vcpu;

/// `struct crosvm`.
pub(crate) struct Connection {
    sdk: Mutex<plugin_sdk::Connection>,
    /// All connections share them, so that a vCPU has one handle.
    vcpus: Arc<[Mutex<Vcpu>]>,
}

impl Connection {
    fn connect() -> Result<Self> {
        let mut sdk = plugin_sdk::Connection::from_env()?.with_inheritable_descriptors();
        let vcpus = sdk.vcpus()?.into_iter().map(|vcpu| Mutex::new(Vcpu::new(vcpu))).collect();
        Ok(Self { sdk: Mutex::new(sdk), vcpus })
    }

    fn with(&self, sdk: plugin_sdk::Connection) -> Self {
        Self { sdk: Mutex::new(sdk), vcpus: Arc::clone(&self.vcpus) }
    }

    fn vcpu(&self, cpu_id: u32) -> Result<*const Mutex<Vcpu>> {
        let index = usize::try_from(cpu_id).map_err(|_| Errno::NOENT)?;
        self.vcpus.get(index).map(std::ptr::from_ref).ok_or(Errno::NOENT)
    }
}

impl Drop for Connection {
    /// A thread that waits for a vCPU's event when the last connection goes would wake up in freed memory. So the vCPUs
    /// stay then, for ever.
    fn drop(&mut self) {
        if let Some(vcpus) = Arc::get_mut(&mut self.vcpus)
            && vcpus.iter().any(|vcpu| vcpu.try_lock().is_err())
        {
            std::mem::forget(Arc::clone(&self.vcpus));
        }
    }
}

impl Handle<Connection> {
    /// The connection for this call alone.
    pub(crate) fn sdk(&self) -> Result<MutexGuard<'_, plugin_sdk::Connection>> {
        alone(&self.get()?.sdk)
    }
}

export! {
    fn crosvm_connect(out: Out<*const Connection>) -> Result<()> {
        let out = out.check()?;
        out.set_new(Connection::connect()?);
        Ok(())
    }

    fn crosvm_new_connection(connection: Handle<Connection>, out: Out<*const Connection>) -> Result<()> {
        let out = out.check()?;
        let another = connection.sdk()?.new_connection()?;
        out.set_new(connection.get()?.with(another));
        Ok(())
    }

    fn crosvm_destroy_connection(connection: Owner<Connection>) -> Result<()> {
        // Not while another thread is inside a call with it.
        drop(connection.handle()?.sdk()?);
        connection.destroy()?;
        stats::print();
        Ok(())
    }

    fn crosvm_get_shutdown_eventfd(connection: Handle<Connection>) -> Result<OwnedFd> {
        Ok(connection.sdk()?.shutdown_eventfd()?)
    }

    fn crosvm_start(connection: Handle<Connection>) -> Result<()> {
        Ok(connection.sdk()?.start()?)
    }

    fn crosvm_pause_vcpus(connection: Handle<Connection>, cpu_mask: u64, user: *mut c_void) -> Result<()> {
        Ok(connection.sdk()?.pause_vcpus(cpu_mask, user.expose_provenance() as u64)?)
    }

    fn crosvm_get_vcpu(
        connection: Handle<Connection>,
        cpu_id: u32,
        out: Out<*const Mutex<Vcpu>>,
    ) -> Result<()> {
        let out = out.check()?;
        // This is no request: threads may fetch their vCPUs by one connection.
        out.set(connection.get()?.vcpu(cpu_id)?);
        Ok(())
    }
}
