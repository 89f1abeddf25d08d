//! A plugin whose brain is the test: it hands its main socket over to it, and obeys.
//!
//! Its standard input is a socket to the test (`SOCK_SEQPACKET`). Each datagram from there is one command:
//!
//! | command | does |
//! |---|---|
//! | `exit N` | exits |
//! | `kill N` | kills itself by the signal of that number |
//! | `stop` | stops itself by SIGSTOP |
//! | `say TEXT` | writes a line to standard error |
//!
//! Where the test is gone it exits with 98; what it does not understand makes it exit with 99.

#![allow(unsafe_code, reason = "the main socket is known by its number")]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::process::ExitCode;

use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, sendmsg};
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    // One that dies on purpose leaves no core behind.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    match obey() {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("relay: {failure}");
            ExitCode::from(99)
        }
    }
}

fn obey() -> Result<ExitCode, Failure> {
    let test = rustix::stdio::stdin();
    hand_over(test)?;
    loop {
        let mut command = [0; 4096];
        let (length, _) = recv(test, &mut command[..], RecvFlags::empty())?;
        let command = std::str::from_utf8(&command[..length])?;
        let (word, value) = command.split_once(' ').unwrap_or((command, ""));
        match word {
            "" => return Ok(ExitCode::from(98)),
            "exit" => return Ok(ExitCode::from(value.parse::<u8>()?)),
            "kill" => {
                kill_process(getpid(), Signal::from_named_raw(value.parse()?).ok_or("no such signal")?)?;
            }
            "stop" => kill_process(getpid(), Signal::STOP)?,
            "say" => eprintln!("{value}"),
            _ => return Err(format!("no such command: {command}").into()),
        }
    }
}

/// Sends the main socket, and closes it here.
fn hand_over(test: BorrowedFd<'_>) -> Result<(), Failure> {
    let number = std::env::var("CROSVM_SOCKET")?.parse()?;
    // SAFETY: the VMM opened it for this process, and nothing else here knows of it.
    let main = unsafe { OwnedFd::from_raw_fd(number) };
    let fds = [main.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(test, &[IoSlice::new(b"x")], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
