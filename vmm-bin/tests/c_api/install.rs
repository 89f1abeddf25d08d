//! `install.sh`: what it puts where, and that programs are built with what it has put.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::{Backend, Outboard, leftover};
use crate::compiler::{Program, capi, is_there_or_skip, library_folder, run};

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

/// What is installed below the prefix.
const FILES: [&str; 5] = [
    "include/crosvm.h",
    "lib/.debug/libcrosvm_plugin.so.debug",
    "lib/libcrosvm_plugin.a",
    "lib/libcrosvm_plugin.so",
    "lib/pkgconfig/crosvm_plugin.pc",
];

#[test]
fn libraries_header_and_pkg_config_file_go_below_the_prefix() {
    if !is_there_or_skip("objcopy", "libraries_header_and_pkg_config_file_go_below_the_prefix") {
        return;
    }
    let folder = TempDir::new().unwrap();
    let prefix = folder.path().join("a prefix");
    let said = run(install().arg("--prefix").arg(&prefix));
    let expected: BTreeSet<_> = FILES.map(|file| prefix.join(file)).into();
    assert_eq!(files(folder.path()), expected);
    let named: BTreeSet<_> = said.lines().map(PathBuf::from).collect();
    assert_eq!(named, expected);
    // A second time, over the first.
    run(install().arg("--prefix").arg(&prefix));
}

#[test]
fn destdir_comes_before_the_paths_and_into_none_of_them() {
    if !is_there_or_skip("objcopy", "destdir_comes_before_the_paths_and_into_none_of_them") {
        return;
    }
    let folder = TempDir::new().unwrap();
    run(install().args(["--prefix=/opt/outboard", "--libdir=/opt/outboard/lib64"]).env("DESTDIR", folder.path()));
    let installed = folder.path().join("opt/outboard");
    assert_eq!(files(folder.path()).len(), FILES.len());
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

/// The names of a file's sections.
fn sections(file: &Path) -> BTreeSet<String> {
    let listed = run(Command::new("readelf").args(["-S", "-W"]).arg(file));
    listed.split_whitespace().filter(|word| word.starts_with('.')).map(str::to_owned).collect()
}

#[test]
fn an_installed_library_is_stripped_and_runs_a_jailed_plugin() {
    let test = "an_installed_library_is_stripped_and_runs_a_jailed_plugin";
    if ["objcopy", "readelf", "pkg-config"].iter().any(|program| !is_there_or_skip(program, test)) {
        return;
    }
    let folder = TempDir::new().unwrap();
    run(install().arg("--prefix").arg(folder.path()));
    let (library, debug) = (folder.path().join(FILES[3]), folder.path().join(FILES[1]));
    let there = sections(&library);
    assert!(there.contains(".gnu_debuglink") && there.contains(".dynsym"), "{there:#?}");
    assert!(!there.iter().any(|name| name.starts_with(".debug_") || name == ".symtab"), "{there:#?}");
    assert!(sections(&debug).contains(".symtab"));
    let (built, installed) = (library_folder().join("libcrosvm_plugin.so"), library.metadata().unwrap().len());
    assert!(installed < built.metadata().unwrap().len());
    let of_archive = |folder: &Path| folder.join("libcrosvm_plugin.a").metadata().unwrap().len();
    assert!(of_archive(&folder.path().join("lib")) < of_archive(&library_folder()));

    let source = capi().join("../../examples/c/adder.c");
    let Some(plugin) = Program::compile(&source, test) else { return };
    let outboard = Outboard::executable(Backend::Mock, &[], &plugin.path(), [""; 0]);
    let ended = outboard.env("LD_LIBRARY_PATH", folder.path().join("lib").to_str().unwrap()).run();
    ended.assert_success();
    assert_eq!(ended.stdout, ["2 + 3 = 5", "20 + 22 = 42"]);
}

#[test]
fn without_objcopy_libraries_are_installed_as_they_are() {
    let folder = TempDir::new().unwrap();
    let said = run(install().arg("--prefix").arg(folder.path()).env("OBJCOPY", "no-such-program"));
    assert_eq!(said.lines().count(), FILES.len() - 1);
    let built = library_folder().join("libcrosvm_plugin.so").metadata().unwrap().len();
    assert_eq!(folder.path().join(FILES[3]).metadata().unwrap().len(), built);
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
