//! The README's plugin in C, tried as a new user would: the text into a file, then the two commands.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::common::{Backend, on_each_backend};
use crate::compiler::{is_there_or_skip, library_folder, run};

on_each_backend! {
    the_c_plugin_compiles_and_runs_by_two_commands
}

/// The first block of `language` in `text`, and what follows it.
fn block<'t>(text: &'t str, language: &str) -> (&'t str, &'t str) {
    let (_, rest) = text.split_once(&format!("\n```{language}\n")).unwrap();
    rest.split_once("\n```\n").unwrap()
}

fn the_c_plugin_compiles_and_runs_by_two_commands(backend: Backend) {
    if !is_there_or_skip("cc", &format!("the_c_plugin_compiles_and_runs_by_two_commands on {}", backend.name())) {
        return;
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(repository.join("README.md")).unwrap();
    let (plugin, after) = block(&readme, "c");
    let (commands, _) = block(after, "console");
    let commands: Vec<_> = commands.lines().map(|line| line.strip_prefix("$ ").unwrap()).collect();
    let [compile, start] = commands[..] else { panic!("not two commands: {commands:?}") };

    // A clone where this build is the release.
    let clone = TempDir::new().unwrap();
    let release = clone.path().join("target/release");
    std::fs::create_dir_all(&release).unwrap();
    // A link would lead out of what the jail shows.
    std::fs::copy(library_folder().join("libcrosvm_plugin.so"), release.join("libcrosvm_plugin.so")).unwrap();
    symlink(env!("CARGO_BIN_EXE_outboard"), release.join("outboard")).unwrap();
    for folder in ["plugin-sdk", "examples"] {
        symlink(repository.join(folder), clone.path().join(folder)).unwrap();
    }
    std::fs::write(clone.path().join("plugin.c"), plugin).unwrap();

    let shell = |line: &str| run(Command::new("sh").args(["-c", line]).current_dir(clone.path()));
    shell(compile);
    let printed = shell(&format!("{start} --hypervisor {}", backend.name()));
    assert_eq!(printed, "ok\n");
}
