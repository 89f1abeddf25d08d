//! `dist/install.sh`: what it puts where, and that what it has put runs.

#![allow(clippy::unwrap_used, reason = "what fails here fails its test")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ended, Outboard, leftover};
use tempfile::TempDir;

/// The folder of the command of this build.
fn built() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_outboard")).parent().unwrap()
}

fn install() -> Command {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/install.sh"));
    command.arg("--from").arg(built()).env_remove("DESTDIR");
    command
}

/// Installs, which must succeed: the files that it names.
fn installed(command: &mut Command) -> Vec<PathBuf> {
    let output = leftover::output(command).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}

fn run(program: &Path, args: &[&str]) -> Ended {
    Outboard::of_program(program, args).run()
}

#[test]
fn command_pages_and_completions_go_below_the_prefix_and_run() {
    let folder = TempDir::new().unwrap();
    let files = installed(install().arg("--prefix").arg(folder.path()));
    for file in [
        "bin/outboard",
        "share/man/man1/outboard-run.1",
        "share/bash-completion/completions/outboard",
        "share/fish/vendor_completions.d/outboard.fish",
        "share/zsh/site-functions/_outboard",
    ] {
        assert!(files.contains(&folder.path().join(file)), "{file}: {files:#?}");
    }
    assert!(files.iter().all(|file| file.is_file()));
    let program = folder.path().join("bin/outboard");
    // Where there is no objcopy it is as it was built.
    if files.contains(&folder.path().join("bin/.debug/outboard.debug")) {
        assert!(program.metadata().unwrap().len() < built().join("outboard").metadata().unwrap().len());
    }
    assert_eq!(run(&program, &["--version"]).stdout, [format!("outboard {}", env!("CARGO_PKG_VERSION"))]);
    // It starts itself as the jail's helper, and as the plugin.
    run(&program, &["demo", "--hypervisor", "mock"]).assert_success();
}

#[test]
fn destdir_comes_before_the_prefix() {
    let folder = TempDir::new().unwrap();
    let files = installed(install().args(["--prefix=/opt/outboard"]).env("DESTDIR", folder.path()));
    assert!(files.iter().all(|file| file.starts_with(folder.path().join("opt/outboard"))), "{files:#?}");
}

#[test]
fn what_cannot_be_done_is_named_and_nothing_is_installed() {
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("prefix");
    for (arguments, told) in [
        (&["--from", "/nonexistent"][..], "cargo build --release"),
        (&["--prefix"], "--prefix wants a folder"),
        (&["--fast"], "unknown argument: --fast"),
    ] {
        let output = leftover::output(install().arg("--prefix").arg(&prefix).args(arguments)).unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && stderr.contains(told), "{arguments:?}: {stderr}");
        assert!(!prefix.exists());
    }
}
