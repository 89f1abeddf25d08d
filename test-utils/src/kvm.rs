//! KVM, where this machine has it.

use std::env;
use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write;

use hypervisor::kvm::Kvm;

/// KVM, or `None` after `test` was reported as [skipped]. A test beside one for the mock is named `CRATE::...::kvm::...`, and
/// one that has run on the mock already ends in `, the half for KVM`; every other needs a line in `.ci/kvm-only`.
pub fn kvm_or_skip(test: &str) -> Option<Kvm> {
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            skipped(&format!("(no KVM) {test}"), &error);
            None
        }
    }
}

/// Reports `test` as skipped on standard error, past the test harness's capture, and in the file that `OUTBOARD_SKIPS`
/// names.
///
/// # Panics
///
/// If there is such a name and the file cannot be written.
pub fn skipped(test: &str, why: &dyn Display) {
    // In one piece, among the lines of other tests.
    let line = format!("SKIPPED {test}: {why}\n");
    // A closed standard error must not fail the test.
    let _ = std::io::stderr().write_all(line.as_bytes());
    if let Some(path) = env::var_os("OUTBOARD_SKIPS") {
        let file = OpenOptions::new().append(true).create(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        assert!(written.is_ok(), "{}: {written:?}", path.display());
    }
}
