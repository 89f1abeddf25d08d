//! Connections, and what they ask about the life of the VM.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use libc::c_void;

use crate::errno::{Errno, Result};
use crate::export::export;
use crate::pointers::{Handle, Out, Owner};
use crate::stats;
use crate::vcpu::Vcpu;

/// `struct crosvm`.
pub(crate) struct Connection {
    pub(crate) sdk: plugin_sdk::Connection,
    /// All connections share them, so that a vCPU has one handle.
    vcpus: Arc<[Mutex<Vcpu>]>,
}

impl Connection {
    fn connect() -> Result<Self> {
        let mut sdk = plugin_sdk::Connection::from_env()?.with_inheritable_descriptors();
        let vcpus = sdk.vcpus()?.into_iter().map(|vcpu| Mutex::new(Vcpu::new(vcpu))).collect();
        Ok(Self { sdk, vcpus })
    }

    fn another(&mut self) -> Result<Self> {
        Ok(Self { sdk: self.sdk.new_connection()?, vcpus: Arc::clone(&self.vcpus) })
    }

    fn vcpu(&self, cpu_id: u32) -> Result<*const Mutex<Vcpu>> {
        let index = usize::try_from(cpu_id).map_err(|_| Errno::NOENT)?;
        self.vcpus.get(index).map(std::ptr::from_ref).ok_or(Errno::NOENT)
    }
}

export! {
    fn crosvm_connect(out: Out<*const Mutex<Connection>>) -> Result<()> {
        let out = out.check()?;
        out.set_new(Mutex::new(Connection::connect()?));
        Ok(())
    }

    fn crosvm_new_connection(
        connection: Handle<Mutex<Connection>>,
        out: Out<*const Mutex<Connection>>,
    ) -> Result<()> {
        let out = out.check()?;
        out.set_new(Mutex::new(connection.lock()?.another()?));
        Ok(())
    }

    fn crosvm_destroy_connection(connection: Owner<Mutex<Connection>>) -> Result<()> {
        // Not while another thread is inside a call with it.
        drop(connection.handle()?.lock()?);
        connection.destroy()?;
        stats::print();
        Ok(())
    }

    fn crosvm_get_shutdown_eventfd(connection: Handle<Mutex<Connection>>) -> Result<OwnedFd> {
        Ok(connection.lock()?.sdk.shutdown_eventfd()?)
    }

    fn crosvm_start(connection: Handle<Mutex<Connection>>) -> Result<()> {
        Ok(connection.lock()?.sdk.start()?)
    }

    fn crosvm_pause_vcpus(connection: Handle<Mutex<Connection>>, cpu_mask: u64, user: *mut c_void) -> Result<()> {
        Ok(connection.lock()?.sdk.pause_vcpus(cpu_mask, user.expose_provenance() as u64)?)
    }

    fn crosvm_get_vcpu(
        connection: Handle<Mutex<Connection>>,
        cpu_id: u32,
        out: Out<*const Mutex<Vcpu>>,
    ) -> Result<()> {
        let out = out.check()?;
        out.set(connection.lock()?.vcpu(cpu_id)?);
        Ok(())
    }
}
