//! The examples in C do what those in Rust do.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use rustix::pipe::{PipeFlags, pipe_with};

use crate::common::{Backend, Outboard, example, on_each_backend};
use crate::compiler::{Program, library_folder};

on_each_backend! {
    the_adder_adds
    the_guest_reads_the_counter_at_each_interrupt
    the_serial_port_in_c_and_the_one_in_rust_print_the_same
}

fn examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"))
}

fn compile(name: &str, test: &str) -> Option<Program> {
    Program::compile(&examples().join("c").join(name).with_extension("c"), test)
}

/// A run of an example, in whichever language.
fn outboard(backend: Backend, plugin: &Path) -> Outboard {
    let mut args: Vec<OsString> = ["run", "--hypervisor", backend.name(), "--plugin"].map(OsString::from).into();
    args.push(plugin.into());
    args.push("--plugin-stdio".into());
    Outboard::new(args).env("LD_LIBRARY_PATH", library_folder().to_str().unwrap())
}

fn prints(backend: Backend, name: &str, expected: &[&str]) {
    let Some(plugin) = compile(name, &format!("c_api::{name} on {}", backend.name())) else { return };
    let ended = outboard(backend, &plugin.path()).run();
    ended.assert_success();
    assert_eq!(ended.stdout, expected);
}

fn the_adder_adds(backend: Backend) {
    prints(backend, "adder", &["2 + 3 = 5", "20 + 22 = 42"]);
}

fn the_guest_reads_the_counter_at_each_interrupt(backend: Backend) {
    let expected = [1, 2, 3, 4, 5].map(|count| format!("the guest has read {count}"));
    prints(backend, "counter", &expected.each_ref().map(String::as_str));
}

/// What a serial port prints when it is sent `input`.
fn echo(backend: Backend, plugin: &Path, input: &str) -> Vec<String> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let running = outboard(backend, plugin).stdin(reader).start();
    // All of it fits into the pipe.
    File::from(writer).write_all(input.as_bytes()).unwrap();
    let ended = running.end();
    ended.assert_success();
    ended.stdout
}

fn the_serial_port_in_c_and_the_one_in_rust_print_the_same(backend: Backend) {
    let Some(plugin) = compile("serial", &format!("c_api::serial on {}", backend.name())) else { return };
    let lines: String = (0..100).map(|n| format!("line {n}\n")).collect();
    for input in ["", "hello\n", "with\rreturns\r\n", "until here\x04not this", &lines] {
        let printed = echo(backend, &plugin.path(), input);
        assert_eq!(printed, echo(backend, &example("serial"), input), "{input:?}");
        assert_eq!(printed.first().unwrap(), "Serial port ready, Ctrl-D ends.\r");
        assert_eq!(printed.last().unwrap(), "Bye.\r");
    }
}
