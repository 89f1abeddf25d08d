//! Runs public suites of tests for processors, and prints a table of what passed.
//!
//! `cargo run --release -p hypervisor --example suites -- FOLDER [--kvm] [--verbose] [NAME...]`
//!
//! `FOLDER` has what `.ci/suites` builds: `test386.bin` and `test386-EE-reference.txt`, and kvm-unit-tests' `x86_64/*.flat` and
//! `i386/*.flat`. The guests run on the mock, or on KVM for comparison. Their devices are here: a serial port, the
//! configuration port of QEMU, the port that ends a test, and lines of interrupts behind ports.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool for developers, which ends where a backend refuses"
)]

mod board;
mod devices;
mod multiboot;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use board::{Board, End};
use hypervisor::Hypervisor;
use hypervisor::kvm::Kvm;
use hypervisor::mock::Mock;

/// A suite.
struct Suite {
    name: &'static str,
    /// Its file in the folder.
    file: &'static str,
    /// Its command line.
    arguments: &'static str,
    vcpus: u32,
}

const fn unit(name: &'static str, file: &'static str) -> Suite {
    Suite { name, file, arguments: "", vcpus: 1 }
}

/// Those of kvm-unit-tests that are run, as its `x86/unittests.cfg` has them.
const SUITES: &[Suite] = &[
    unit("realmode", "x86_64/realmode.flat"),
    unit("emulator", "x86_64/emulator.flat"),
    unit("access", "x86_64/access_test.flat"),
    unit("idt_test", "x86_64/idt_test.flat"),
    unit("syscall", "x86_64/syscall.flat"),
    unit("eventinj", "x86_64/eventinj.flat"),
    Suite { vcpus: 2, ..unit("apic", "x86_64/apic.flat") },
    Suite { vcpus: 4, ..unit("ioapic", "x86_64/ioapic.flat") },
    unit("taskswitch", "i386/taskswitch.flat"),
    unit("taskswitch2", "i386/taskswitch2.flat"),
    unit("debug", "x86_64/debug.flat"),
    unit("tsc", "x86_64/tsc.flat"),
    unit("xsave", "x86_64/xsave.flat"),
    unit("msr", "x86_64/msr.flat"),
    unit("smap", "x86_64/smap.flat"),
    unit("umip", "x86_64/umip.flat"),
    unit("pcid", "x86_64/pcid.flat"),
    unit("memory", "x86_64/memory.flat"),
    unit("setjmp", "x86_64/setjmp.flat"),
    unit("sieve", "x86_64/sieve.flat"),
    unit("tsc_adjust", "x86_64/tsc_adjust.flat"),
    Suite { vcpus: 2, ..unit("smptest", "x86_64/smptest.flat") },
    unit("idt_test (i386)", "i386/idt_test.flat"),
    unit("eventinj (i386)", "i386/eventinj.flat"),
];

/// A guest that says nothing for so long has failed.
const LIMIT: Duration = Duration::from_secs(300);

/// What became of a suite: passed, and a line about it.
struct Verdict {
    passed: bool,
    text: String,
}

fn main() -> ExitCode {
    let mut folder = None;
    let (mut kvm, mut verbose, mut names) = (false, false, Vec::new());
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--kvm" => kvm = true,
            "--verbose" => verbose = true,
            _ if folder.is_none() => folder = Some(argument),
            _ => names.push(argument),
        }
    }
    let Some(folder) = folder else {
        eprintln!("usage: suites FOLDER [--kvm] [--verbose] [NAME...]");
        return ExitCode::from(2);
    };
    let hypervisor: Box<dyn Hypervisor> = if kvm {
        match Kvm::open() {
            Ok(kvm) => Box::new(kvm),
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::from(2);
            }
        }
    } else {
        Box::new(Mock::guest_code())
    };
    let chosen = |name: &str| names.is_empty() || names.iter().any(|chosen| chosen == name);
    let mut failed = 0;
    println!("| suite | result | seconds |\n|---|---|---|");
    let mut report = |name: &str, run: &mut dyn FnMut() -> Verdict| {
        if !chosen(name) {
            return;
        }
        let begun = Instant::now();
        let verdict = run();
        failed += u32::from(!verdict.passed);
        println!("| {name} | {} | {:.1} |", verdict.text, begun.elapsed().as_secs_f64());
    };
    let folder = Path::new(&folder);
    report("test386", &mut || test386(&*hypervisor, folder, verbose));
    for suite in SUITES {
        report(suite.name, &mut || unit_test(&*hypervisor, folder, suite, verbose));
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// test386 to POST 0xFF, and its listing of results as published.
fn test386(hypervisor: &dyn Hypervisor, folder: &Path, verbose: bool) -> Verdict {
    let verdict = |passed, text| Verdict { passed, text };
    let files = fs::read(folder.join("test386.bin")).and_then(|rom| {
        let reference = fs::read_to_string(folder.join("test386-EE-reference.txt"))?;
        Ok((rom, reference))
    });
    let (rom, reference) = match files {
        Ok(files) => files,
        Err(error) => return verdict(false, format!("no file: {error}")),
    };
    let mut board = Board::new(hypervisor, 1);
    board.rom(&rom);
    let ran = board.run(LIMIT, verbose);
    let post = ran.post.map_or("none".into(), |post| format!("{post:#04x}"));
    let mut pairs = ran.output.lines().map(str::trim_end).zip(reference.lines().map(str::trim_end));
    let differing = pairs.clone().filter(|(ours, theirs)| ours != theirs).count();
    let lines = ran.output.lines().count();
    let complete = lines == reference.lines().count();
    let text = match pairs.find(|(ours, theirs)| ours != theirs) {
        _ if ran.post != Some(0xff) => format!("POST {post}, {}", ran.end),
        Some((ours, theirs)) => {
            format!("POST 0xff; {differing} of {lines} lines differ, the first is `{ours}` for `{theirs}`")
        }
        None if !complete => format!("POST 0xff; the listing has {lines} lines, not {}", reference.lines().count()),
        None => format!("POST 0xff; the listing of {lines} lines is as published"),
    };
    verdict(ran.post == Some(0xff) && differing == 0 && complete, text)
}

/// One of kvm-unit-tests.
fn unit_test(hypervisor: &dyn Hypervisor, folder: &Path, suite: &Suite, verbose: bool) -> Verdict {
    let file = match fs::read(folder.join(suite.file)) {
        Ok(file) => file,
        Err(error) => return Verdict { passed: false, text: format!("no file: {error}") },
    };
    let mut board = Board::new(hypervisor, suite.vcpus);
    if let Err(problem) = multiboot::load(&mut board, &file, suite.name, suite.arguments) {
        return Verdict { passed: false, text: problem };
    }
    let ran = board.run(LIMIT, verbose);
    let count = |mark: &str| ran.output.lines().filter(|line| line.starts_with(mark)).count();
    let (passes, skips) = (count("PASS"), count("SKIP"));
    let failures: Vec<&str> = ran.output.lines().filter(|line| line.starts_with("FAIL")).collect();
    let first = failures.first().map(|first| format!(", the first `{first}`")).unwrap_or_default();
    let text = format!("{}; {passes} passed, {} failed{first}, {skips} skipped", ran.end, failures.len());
    Verdict { passed: ran.end == End::Exit(0) && failures.is_empty(), text }
}
