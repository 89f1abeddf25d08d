//! C programs, compiled by the system's compiler and linked with the library of this build.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use test_utils::kvm::skipped;

use crate::common::leftover;

/// The folder of the library's crate.
pub(crate) fn capi() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-sdk/capi")
}

/// The folder with the libraries of this build: Cargo puts those of a dependency beside the test.
pub(crate) fn library_folder() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let library = folder.join("libcrosvm_plugin.so");
    assert!(library.exists(), "{} is not there", library.display());
    folder
}

/// Runs a program to its end, which must be a good one: what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = leftover::output(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    stdout.into_owned()
}

/// Whether there is a program of that name. If not, `test` is told of as skipped.
pub(crate) fn is_there_or_skip(program: &str, test: &str) -> bool {
    match leftover::output(Command::new(program).arg("--version")) {
        Ok(_) => true,
        Err(error) => {
            skipped(&format!("(no {program}) {test}"), &error);
            false
        }
    }
}

/// A compiled program, until it is dropped.
pub(crate) struct Program {
    folder: TempDir,
    /// The source's name.
    pub(crate) name: String,
}

impl Program {
    /// Compiles a C file, with all warnings as errors. `None` after `test` was told of as skipped, where there is no
    /// compiler.
    pub(crate) fn compile(source: &Path, test: &str) -> Option<Self> {
        Self::compile_with(source, test, &[] as &[&str])
    }

    /// [`compile`](Self::compile) with more arguments.
    pub(crate) fn compile_with(source: &Path, test: &str, arguments: &[impl AsRef<OsStr>]) -> Option<Self> {
        if !is_there_or_skip("cc", test) {
            return None;
        }
        let name = source.file_stem().unwrap().to_string_lossy().into_owned();
        let program = Self { folder: TempDir::new().unwrap(), name };
        let libraries = library_folder();
        let mut rpath = std::ffi::OsString::from("-Wl,-rpath,");
        rpath.push(&libraries);
        run(Command::new("cc")
            .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pthread", "-g", "-o"])
            .arg(program.path())
            .arg(source)
            .arg("-I")
            .arg(capi().join("include"))
            .arg("-L")
            .arg(&libraries)
            .arg(rpath)
            .arg("-lcrosvm_plugin")
            .args(arguments));
        Some(program)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("plugin")
    }
}
