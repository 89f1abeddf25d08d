//! Plugins of both SDKs that are built with musl run in the jail with the built-in policy, as those built with glibc do.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use common::{Backend, Outboard, leftover, on_each_backend};
use tempfile::TempDir;
use test_utils::kvm::skipped;

on_each_backend! {
    a_plugin_in_rust_runs
    a_static_plugin_in_c_runs
    a_plugin_in_c_with_a_shared_libc_runs
}

const TARGET: &str = "x86_64-unknown-linux-musl";

/// What the examples print, by name.
const EXAMPLES: [(&str, &[&str]); 2] = [
    ("adder", &["2 + 3 = 5", "20 + 22 = 42"]),
    (
        "counter",
        &[
            "the guest has read 1",
            "the guest has read 2",
            "the guest has read 3",
            "the guest has read 4",
            "the guest has read 5",
        ],
    ),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Runs a program to its end, which must be a good one: what it printed.
fn run(command: &mut Command) -> String {
    let output = leftover::output(command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn rustc() -> Command {
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    // Where the toolchain is chosen by the folder, it is the repository's.
    command.current_dir(repository()).args(["--edition", "2024", "--target", TARGET]);
    command
}

/// Both SDKs, built for musl.
struct Built {
    /// With the libraries, and in `deps` those they depend on.
    folder: PathBuf,
    /// Where what ran at compile time lies.
    of_the_host: PathBuf,
    /// What a C program unwinds with: that of GCC wants glibc.
    unwinder: PathBuf,
}

/// Both SDKs, built for musl; `None` after `test` was told of as skipped, where Rust has no musl.
fn sdks(test: &str) -> Option<&'static Built> {
    static BUILT: LazyLock<Option<Built>> = LazyLock::new(|| {
        let standard_library = run(rustc().args(["--print", "target-libdir"]));
        if !Path::new(&standard_library).exists() {
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("musl");
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let options = ["build", "--quiet", "--locked", "-p", "plugin-sdk", "-p", "plugin-capi", "--target", TARGET];
        run(Command::new(cargo).current_dir(repository()).args(options).arg("--target-dir").arg(&folder));
        Some(Built {
            of_the_host: folder.join("debug/deps"),
            folder: folder.join(TARGET).join("debug"),
            unwinder: Path::new(&standard_library).join("self-contained/libunwind.a"),
        })
    });
    if BUILT.is_none() {
        skipped(&format!("(no Rust target {TARGET}) musl::{test}"), &"rustup target add would add it");
    }
    BUILT.as_ref()
}

/// Runs each example, built by `build` from its name to the path given, in its jail.
fn each_example_prints_what_it_should(backend: Backend, build: impl Fn(&str, &Path)) {
    let folder = TempDir::new().unwrap();
    for (name, expected) in EXAMPLES {
        let plugin = folder.path().join(name);
        build(name, &plugin);
        let ended = Outboard::executable(backend, &[], &plugin, [""; 0]).run();
        ended.assert_success();
        assert_eq!(ended.stdout, expected, "{name}");
    }
}

fn a_plugin_in_rust_runs(backend: Backend) {
    let Some(sdks) = sdks(&format!("a_plugin_in_rust_runs on {}", backend.name())) else { return };
    let sdk = format!("plugin_sdk={}", sdks.folder.join("libplugin_sdk.rlib").display());
    each_example_prints_what_it_should(backend, |name, plugin| {
        let source = Path::new("examples").join(name).with_extension("rs");
        let folders = [&sdks.folder.join("deps"), &sdks.of_the_host];
        let folders = folders.iter().flat_map(|folder| [OsStr::new("-L"), folder.as_os_str()]);
        run(rustc().args(folders).args(["--extern", &sdk]).arg(source).arg("-o").arg(plugin));
    });
}

fn in_c(backend: Backend, test: &str, options: &[&str]) {
    let test = format!("{test} on {}", backend.name());
    if let Err(error) = leftover::output(Command::new("musl-gcc").arg("--version")) {
        return skipped(&format!("(no musl-gcc) musl::{test}"), &error);
    }
    let Some(sdks) = sdks(&test) else { return };
    each_example_prints_what_it_should(backend, |name, plugin| {
        // The kernel's headers are there for glibc, and come last.
        let kernel = ["-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu"];
        let mut compiler = Command::new("musl-gcc");
        compiler.args(options).args(kernel).arg("-I").arg(repository().join("plugin-sdk/capi/include"));
        compiler.arg(repository().join("examples/c").join(name).with_extension("c"));
        run(compiler.arg(sdks.folder.join("libcrosvm_plugin.a")).arg(&sdks.unwinder).arg("-o").arg(plugin));
    });
}

fn a_static_plugin_in_c_runs(backend: Backend) {
    in_c(backend, "a_static_plugin_in_c_runs", &["-static"]);
}

/// Its loader is musl's.
fn a_plugin_in_c_with_a_shared_libc_runs(backend: Backend) {
    in_c(backend, "a_plugin_in_c_with_a_shared_libc_runs", &[]);
}
