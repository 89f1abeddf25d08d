//! `install.sh`: what it puts where, and that programs are built with what it has put.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::leftover;
use crate::compiler::{capi, is_there_or_skip, library_folder, run};

fn install() -> Command {
    let mut command = Command::new(capi().join("install.sh"));
    command.arg("--from").arg(library_folder()).env_remove("DESTDIR");
    command
}

/// The files below a folder.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

#[test]
fn libraries_header_and_pkg_config_file_go_below_the_prefix() {
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("a prefix");
    let said = run(install().arg("--prefix").arg(&prefix));
    let expected: BTreeSet<_> =
        ["include/crosvm.h", "lib/libcrosvm_plugin.a", "lib/libcrosvm_plugin.so", "lib/pkgconfig/crosvm_plugin.pc"]
            .map(|file| prefix.join(file))
            .into();
    assert_eq!(files(folder.path()), expected);
    let named: BTreeSet<_> = said.lines().map(PathBuf::from).collect();
    assert_eq!(named, expected);
    // A second time, over the first.
    run(install().arg("--prefix").arg(&prefix));
}

#[test]
fn destdir_comes_before_the_paths_and_into_none_of_them() {
    let folder = TempDir::new().unwrap();
    run(install().args(["--prefix=/opt/outboard", "--libdir=/opt/outboard/lib64"]).env("DESTDIR", folder.path()));
    let installed = folder.path().join("opt/outboard");
    assert_eq!(files(folder.path()).len(), 4);
    assert!(installed.join("lib64/libcrosvm_plugin.so").exists());
    let pc = std::fs::read_to_string(installed.join("lib64/pkgconfig/crosvm_plugin.pc")).unwrap();
    assert!(pc.contains("libdir=/opt/outboard/lib64\n") && pc.contains("Version: 0.22.0\n"), "{pc}");
    assert!(!pc.contains(folder.path().to_str().unwrap()), "{pc}");
}

#[test]
fn programs_are_built_against_what_was_installed_shared_and_static() {
    let test = "programs_are_built_against_what_was_installed_shared_and_static";
    if !is_there_or_skip("cc", test) || !is_there_or_skip("pkg-config", test) {
        return;
    }
    let folder = TempDir::new().unwrap();
    run(install().arg("--prefix").arg(folder.path()));
    for (kind, arguments, options) in [("shared", "", ""), ("static", "-static", "--static")] {
        let line =
            format!("cc environment.c -o \"$OUT\" {arguments} $(pkg-config {options} --cflags --libs crosvm_plugin)");
        let program = folder.path().join(kind);
        run(Command::new("sh")
            .args(["-c", &line])
            .current_dir(capi().join("tests/c"))
            .env("OUT", &program)
            .env("PKG_CONFIG_PATH", folder.path().join("lib/pkgconfig")));
        run(Command::new(&program).env("LD_LIBRARY_PATH", folder.path().join("lib")));
        if kind == "static" {
            run(&mut Command::new(&program));
        }
    }
}

#[test]
fn what_cannot_be_done_is_told_and_nothing_is_installed() {
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
