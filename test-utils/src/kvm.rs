//! KVM, where this machine has it.

use std::fmt::Display;
use std::io::Write;

use hypervisor::kvm::Kvm;

/// KVM, or `None` after `test` was reported as skipped on standard error, past the test harness's capture.
pub fn kvm_or_skip(test: &str) -> Option<Kvm> {
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            skipped(&format!("(no KVM) {test}"), &error);
            None
        }
    }
}

/// Reports `test` as skipped on standard error, past the test harness's capture.
pub fn skipped(test: &str, why: &dyn Display) {
    // In one piece, among the lines of other tests. A closed standard error must not fail the test.
    let _ = std::io::stderr().write_all(format!("SKIPPED {test}: {why}\n").as_bytes());
}
