//! What the hypervisor can do.

use kvm_bindings::kvm_cpuid_entry2;
use plugin_proto::messages::main_request::CheckExtension;

use crate::connection::ask;
use crate::{Connection, Error, cpuid};

impl Connection {
    /// Whether the VM has an extension: one of the kernel's `KVM_CAP_` numbers.
    ///
    /// # Errors
    /// The connection's failure.
    pub fn check_extension(&mut self, extension: u32) -> Result<bool, Error> {
        let request = CheckExtension { extension, ..Default::default() };
        ask!(self, "check_extension", CheckExtension(request)).map(|(answer, _)| answer.has_extension)
    }

    /// The CPUID entries that processor and kernel support, a base for [`State::set_cpuid`](crate::State::set_cpuid).
    ///
    /// ```no_run
    /// # fn boot(connection: &mut plugin_sdk::Connection) -> Result<(), plugin_sdk::Error> {
    /// use plugin_sdk::Event;
    ///
    /// let mut cpuid = connection.supported_cpuid()?;
    /// cpuid.retain(|entry| entry.function != 0xa);
    /// let mut vcpus = connection.vcpus()?;
    /// connection.start()?;
    /// for vcpu in &mut vcpus {
    ///     if let Event::Init(mut init) = vcpu.wait()? {
    ///         init.state().set_cpuid(&cpuid)?;
    ///         init.resume()?;
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`], as the kernel says.
    pub fn supported_cpuid(&mut self) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        let (answer, _) = ask!(self, "get_supported_cpuid", GetSupportedCpuid(Default::default()))?;
        Ok(answer.entries.iter().map(cpuid::from_wire).collect())
    }

    /// The CPUID entries of what the kernel emulates though the processor lacks it.
    ///
    /// # Errors
    /// [`Error::Refused`], as the kernel says.
    pub fn emulated_cpuid(&mut self) -> Result<Vec<kvm_cpuid_entry2>, Error> {
        let (answer, _) = ask!(self, "get_emulated_cpuid", GetEmulatedCpuid(Default::default()))?;
        Ok(answer.entries.iter().map(cpuid::from_wire).collect())
    }

    /// The numbers of the MSRs that a guest may have: what to ask [`State::msrs`](crate::State::msrs) for to save a vCPU.
    ///
    /// # Errors
    /// [`Error::Refused`], as the kernel says.
    pub fn msr_indices(&mut self) -> Result<Vec<u32>, Error> {
        let (answer, _) = ask!(self, "get_msr_index_list", GetMsrIndexList(Default::default()))?;
        Ok(answer.indices)
    }
}
