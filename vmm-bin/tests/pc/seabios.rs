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
const FOLDER: &str = "/usr/share/seabios";

/// A PC with the firmware of that name, `None` after the test was told of as skipped where it is not installed.
fn pc(backend: Backend, firmware: &str, test: &str, args: &[&str]) -> Option<Outboard> {
    let path = Path::new(FOLDER).join(firmware);
    if let Err(error) = fs::metadata(&path) {
        skipped(&format!("(no {}) {test} on {}", path.display(), backend.name()), &error);
        return None;
    }
    let path = path.to_str().unwrap();
    let args = ["--bios", path].into_iter().chain(args.iter().copied());
    Some(Outboard::plugin(backend, &["--plugin-mount", FOLDER], "pc", args))
}

/// Runs the firmware up to a line of its log with all of `parts`, and then ends the VM.
fn logs(outboard: Option<Outboard>, parts: &[&str]) {
    let Some(outboard) = outboard else { return };
    let mut running = outboard.start();
    running.await_logged(parts);
    running.signal(Signal::TERM);
    running.end().assert_success();
}

fn seabios_tells_its_version(backend: Backend) {
    logs(pc(backend, "bios.bin", "seabios_tells_its_version", &[]), &["SeaBIOS (version "]);
}

fn seabios_of_256_kib_tells_its_version(backend: Backend) {
    logs(pc(backend, "bios-256k.bin", "seabios_of_256_kib_tells_its_version", &[]), &["SeaBIOS (version "]);
}

fn seabios_finds_the_memory_there_is(backend: Backend) {
    let outboard = pc(backend, "bios.bin", "seabios_finds_the_memory_there_is", &["--memory", "40"]);
    logs(outboard, &["RamSize: 0x02800000"]);
}
