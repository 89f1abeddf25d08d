//! What the hypervisor can do.

use kvm_bindings::kvm_cpuid_entry2;

use crate::connection::Connection;
use crate::errno::{Errno, Result};
use crate::export::export;
use crate::lists;
use crate::pointers::{Handle, In, Out, Room};

export! {
    fn crosvm_check_extension(
        connection: Handle<Connection>,
        extension: u32,
        out: Out<bool>,
    ) -> Result<()> {
        let out = out.check()?;
        out.set(connection.sdk()?.check_extension(extension)?);
        Ok(())
    }

    fn crosvm_enable_capability(
        _connection: Handle<Connection>,
        _capability: u32,
        _flags: u32,
        _args: In<u64>,
    ) -> Result<()> {
        Err(Errno::INVAL)
    }

    fn crosvm_get_supported_cpuid(
        connection: Handle<Connection>,
        count: u32,
        entries: Room<kvm_cpuid_entry2>,
        out_count: Out<u32>,
    ) -> Result<()> {
        let out_count = out_count.check_count()?;
        entries.check(count)?;
        let found = connection.sdk()?.supported_cpuid()?;
        lists::give(&found, count, &entries, &out_count)
    }

    fn crosvm_get_emulated_cpuid(
        connection: Handle<Connection>,
        count: u32,
        entries: Room<kvm_cpuid_entry2>,
        out_count: Out<u32>,
    ) -> Result<()> {
        let out_count = out_count.check_count()?;
        entries.check(count)?;
        let found = connection.sdk()?.emulated_cpuid()?;
        lists::give(&found, count, &entries, &out_count)
    }

    fn crosvm_get_msr_index_list(
        connection: Handle<Connection>,
        count: u32,
        indices: Room<u32>,
        out_count: Out<u32>,
    ) -> Result<()> {
        let out_count = out_count.check_count()?;
        indices.check(count)?;
        let found = connection.sdk()?.msr_indices()?;
        lists::give(&found, count, &indices, &out_count)
    }
}
