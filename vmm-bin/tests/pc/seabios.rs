//! SeaBIOS, as Debian's package has it.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use test_utils::kvm::skipped;

use crate::common::{Backend, Outboard, on_each_backend};

on_each_backend! {
    seabios_tells_its_version
    seabios_of_256_kib_tells_its_version
    seabios_finds_the_memory_there_is
}

/// Where the package has it.
pub(crate) const FOLDER: &str = "/usr/share/seabios";

/// A PC with the firmware of that name, `None` after the test was told of as skipped where it is not installed.
pub(crate) fn pc(backend: Backend, firmware: &str, test: &str, options: &[&str], args: &[&str]) -> Option<Outboard> {
    let path = Path::new(FOLDER).join(firmware);
    if let Err(error) = fs::metadata(&path) {
        skipped(&format!("(no {}) {test} on {}", path.display(), backend.name()), &error);
        return None;
    }
    let path = path.to_str().unwrap();
    let args = ["--bios", path].into_iter().chain(args.iter().copied());
    Some(Outboard::plugin(backend, options, "pc", args))
}

/// Runs the firmware up to a line of its log with `expected` in it, and then ends the VM.
fn logs(backend: Backend, firmware: &str, test: &str, args: &[&str], expected: &str) {
    let Some(pc) = pc(backend, firmware, test, &["--plugin-mount", FOLDER], args) else { return };
    let mut running = pc.start();
    running.await_logged(&[expected]);
    running.signal(Signal::TERM);
    running.end().assert_no_panic();
}

fn seabios_tells_its_version(backend: Backend) {
    logs(backend, "bios.bin", "seabios_tells_its_version", &[], "SeaBIOS (version ");
}

fn seabios_of_256_kib_tells_its_version(backend: Backend) {
    logs(backend, "bios-256k.bin", "seabios_of_256_kib_tells_its_version", &[], "SeaBIOS (version ");
}

fn seabios_finds_the_memory_there_is(backend: Backend) {
    logs(backend, "bios.bin", "seabios_finds_the_memory_there_is", &["--memory", "40"], "RamSize: 0x02800000");
}
