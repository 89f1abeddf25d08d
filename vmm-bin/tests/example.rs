//! The examples do what their README says.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use common::{Backend, LIMIT, Outboard, Running, example, on_each_backend};
use rustix::fs::{Mode, OFlags, open};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use test_utils::wait;

on_each_backend! {
    the_adder_adds
    the_guest_reads_the_counter_at_each_interrupt
    the_serial_guest_echoes_its_input_to_the_end
    on_a_terminal_each_key_is_the_guests_and_the_terminal_is_itself_again_at_the_end
    the_terminal_is_itself_again_when_the_vm_is_ended_from_outside
}

const BANNER: &str = "Serial port ready, Ctrl-D ends.\r";
const FAREWELL: &str = "Bye.\r";

fn examples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples"))
}

fn run(backend: Backend, name: &str) -> Outboard {
    let mut args = vec!["run".into(), "--hypervisor".into(), backend.name().into()];
    args.extend(["--plugin".into(), example(name)]);
    args.push("--plugin-stdio".into());
    Outboard::new(args)
}

fn the_adder_adds(backend: Backend) {
    let ended = run(backend, "adder").run();
    ended.assert_success();
    assert_eq!(ended.stdout, ["2 + 3 = 5", "20 + 22 = 42"]);
}

fn the_guest_reads_the_counter_at_each_interrupt(backend: Backend) {
    let ended = run(backend, "counter").run();
    ended.assert_success();
    assert_eq!(ended.stdout, [1, 2, 3, 4, 5].map(|count| format!("the guest has read {count}")));
}

/// More than the port holds at once, so that it has to wait for the guest; with Ctrl-D the end of the input is not waited
/// for.
fn the_serial_guest_echoes_its_input_to_the_end(backend: Backend) {
    let lines: Vec<_> = (0..40).map(|n| format!("line {n}")).collect();
    for (input, keep_open) in [(lines.join("\n"), false), (lines.join("\n") + "\x04not this", true)] {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut writer = File::from(writer);
        let running = run(backend, "serial").stdin(reader).start();
        writer.write_all(input.as_bytes()).unwrap();
        let writer = keep_open.then_some(writer);
        let ended = running.end();
        drop(writer);
        ended.assert_success();
        let expected: Vec<_> = [BANNER].into_iter().chain(lines.iter().map(String::as_str)).collect();
        let (last, echoed) = ended.stdout.split_last().unwrap();
        // The last line of input ends with the farewell's own line end.
        let echoed: Vec<_> =
            echoed.iter().enumerate().map(|(n, line)| if n == 40 { line.trim_end() } else { line }).collect();
        assert_eq!(echoed, expected);
        assert_eq!(last, FAREWELL);
    }
}

/// The slave of a terminal pair and the end at which one types.
fn terminal() -> (File, File) {
    let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&keyboard).unwrap();
    unlockpt(&keyboard).unwrap();
    let name = ptsname(&keyboard, Vec::new()).unwrap();
    let terminal = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (terminal.into(), keyboard.into())
}

fn is_raw(terminal: &File) -> bool {
    !tcgetattr(terminal).unwrap().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

/// A serial example on a terminal, the guest ready.
fn on_terminal(backend: Backend) -> (Running, File, File) {
    let (terminal, keyboard) = terminal();
    assert!(!is_raw(&terminal));
    let mut running = run(backend, "serial").stdin(terminal.try_clone().unwrap()).start();
    running.await_line(BANNER);
    wait::until("the terminal hands over each key", || is_raw(&terminal));
    (running, terminal, keyboard)
}

fn on_a_terminal_each_key_is_the_guests_and_the_terminal_is_itself_again_at_the_end(backend: Backend) {
    let (mut running, terminal, mut keyboard) = on_terminal(backend);
    // Without a line's end the terminal would hold it back, if it were not raw.
    keyboard.write_all(b"ab\x03c\r").unwrap();
    running.await_line("ab\x03c\r");
    keyboard.write_all(b"\x04").unwrap();
    let ended = running.end();
    ended.assert_success();
    assert_eq!(ended.stdout.last().unwrap(), FAREWELL);
    assert!(!is_raw(&terminal));
}

fn the_terminal_is_itself_again_when_the_vm_is_ended_from_outside(backend: Backend) {
    let (running, terminal, _keyboard) = on_terminal(backend);
    running.signal(rustix::process::Signal::TERM);
    let ended = running.end();
    assert!(!is_raw(&terminal));
    assert!(ended.took < LIMIT, "{ended:#?}");
}

/// The bytes of the guests are in the README for those who write the device in another language.
#[test]
fn the_readme_has_the_guests_bytes() {
    let readme = fs::read_to_string(examples().join("README.md")).unwrap();
    let hex = |bytes: &[u8]| {
        let lines: Vec<_> = bytes
            .chunks(16)
            .map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "))
            .collect();
        lines.join("\n")
    };
    for name in ["counter", "serial"] {
        let source = fs::read_to_string(examples().join(name).with_extension("rs")).unwrap();
        let begin = source.find("const GUEST_CODE").unwrap();
        let code = &source[begin..begin + source[begin..].find("];").unwrap()];
        let mut bytes = Vec::new();
        for line in code.lines().skip(1) {
            let bytes_of_line = line.split("//").next().unwrap();
            bytes.extend(
                bytes_of_line
                    .split(',')
                    .filter_map(|byte| u8::from_str_radix(byte.trim().strip_prefix("0x")?, 16).ok()),
            );
        }
        if name == "serial" {
            bytes.extend(b"Serial port ready, Ctrl-D ends.\r\n\0\r\nBye.\r\n\0");
        }
        assert!(readme.contains(&hex(&bytes)), "{name}: {}", hex(&bytes));
    }
}
