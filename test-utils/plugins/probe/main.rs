//! A plugin for tests. Its arguments are steps, done in order; after the last it exits with 0.
//!
//! A step that fails is told on standard error, and the probe exits with 99. `wait`, `resume` and the like are about
//! vCPU 0, unless `vcpu` chose another.
//!
//! | step | does |
//! |---|---|
//! | `print=TEXT`, `say=TEXT` | writes a line to standard output, to standard error |
//! | `pid` | prints `pid N` |
//! | `flood=LINES` | writes that many numbered lines to standard error |
//! | `stderr-bytes=HEX` | writes bytes to standard error |
//! | `close-stderr` | leaves no end of standard error open |
//! | `own-group` | leaves the process group, so that Ctrl-C does not come here |
//! | `idle=MS` | does nothing for a while: something is to be seen not happening |
//! | `exit=CODE` | exits |
//! | `die=SIGNAL` | kills itself by the signal of that number |
//! | `abort` | aborts |
//! | `hang` | does nothing for ever |
//! | `connect`, `close-main` | opens, closes the connection |
//! | `reserve` | reserves the ports 0x10 to 0x13 |
//! | `memory=HEX` | gives the guest RAM with this code |
//! | `vcpus`, `vcpus-refused=ERRNO` | takes the vCPUs; sees them refused |
//! | `start` | starts the VM |
//! | `event`, `await-event` | takes the shutdown event; waits for it |
//! | `await-hang-up` | waits until the VMM closes the connection |
//! | `vcpu=INDEX` | chooses the vCPU that the steps after it are about |
//! | `wait=KIND` | waits for a vCPU's event: `init`, `read`, `write`, `paused` or `disconnected` |
//! | `boot` | lets the vCPU begin at the code, once it is resumed |
//! | `regs` | gets the registers |
//! | `resume`, `answer=BYTE` | lets the vCPU run on; for `answer`, from a read, which gets that byte |
//! | `drop=N` | waits N times for the vCPU's event, and drops it each time |
//! | `serve=N` | answers N writes, with reads between them |
//! | `pause` | pauses the vCPU |
//! | `serve-all=N` | boots all vCPUs, each on a thread of its own, and answers N writes of each, printed at last |
//! | `raw-...` | what the library cannot do; see `raw.rs` |

mod raw;
mod vm;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit, setsid};
use vm::Machine;

/// What a step fails with.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The ports that `reserve` reserves: the first and how many.
pub(crate) const PORTS: (u64, u64) = (0x10, 4);

fn main() -> ExitCode {
    // A probe that dies on purpose leaves no core behind.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let mut machine = Machine::default();
    let mut raw = raw::Vcpu::default();
    for argument in std::env::args().skip(1) {
        let (name, value) = argument.split_once('=').unwrap_or((&argument, ""));
        let done = match name.strip_prefix("raw-") {
            Some(name) => raw.step(name, value),
            None => process_step(name, value).unwrap_or_else(|| machine.step(name, value)),
        };
        if let Err(failure) = done {
            eprintln!("probe: {argument}: {failure}");
            return ExitCode::from(99);
        }
    }
    ExitCode::SUCCESS
}

/// The steps that are about the process alone; `None` for others.
fn process_step(name: &str, value: &str) -> Option<Result<(), Failure>> {
    Some(match name {
        "print" => {
            println!("{value}");
            Ok(())
        }
        "say" => writeln!(io::stderr(), "{value}").map_err(Failure::from),
        "pid" => {
            println!("pid {}", std::process::id());
            Ok(())
        }
        "flood" => flood(value),
        "stderr-bytes" => hex(value).and_then(|bytes| Ok(io::stderr().write_all(&bytes)?)),
        "close-stderr" => close_stderr(),
        "own-group" => setsid().map(drop).map_err(Failure::from),
        "idle" => number(value).map(|ms| std::thread::sleep(Duration::from_millis(ms))),
        "exit" => number(value).map(|code| std::process::exit(code as i32)),
        "die" => die(value),
        "abort" => std::process::abort(),
        "hang" => hang(),
        _ => return None,
    })
}

fn flood(value: &str) -> Result<(), Failure> {
    let mut stderr = io::BufWriter::new(io::stderr());
    for line in 0..number(value)? {
        writeln!(stderr, "line {line} of a flood")?;
    }
    Ok(stderr.flush()?)
}

/// Descriptor 2 goes on to exist, as something else.
fn close_stderr() -> Result<(), Failure> {
    let null = std::fs::File::options().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stderr(null)?)
}

fn die(value: &str) -> Result<(), Failure> {
    let signal = Signal::from_named_raw(number(value)? as i32).ok_or("no such signal")?;
    kill_process(getpid(), signal)?;
    hang()
}

fn hang() -> ! {
    loop {
        std::thread::park();
    }
}

pub(crate) fn number(value: &str) -> Result<u64, Failure> {
    value.parse().map_err(|_| format!("`{value}` is not a number").into())
}

pub(crate) fn hex(value: &str) -> Result<Vec<u8>, Failure> {
    let digit = |byte: u8| char::from(byte).to_digit(16).ok_or("not hexadecimal");
    let pair = |pair: &[u8]| match pair {
        [high, low] => Ok((digit(*high)? << 4 | digit(*low)?) as u8),
        _ => Err("an odd number of digits"),
    };
    Ok(value.as_bytes().chunks(2).map(pair).collect::<Result<_, _>>()?)
}
