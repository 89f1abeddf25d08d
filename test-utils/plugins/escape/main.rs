//! A plugin that tries to get out of its jail.
//!
//! Its first argument names the attempt, the others are what it needs to know. It exits with 0 if the jail held, and with 1
//! after it has told on standard error what it could do. An attempt may also end with the plugin, where the system call
//! filter does not let it make a call at all.

#![allow(unsafe_code, reason = "what is tried are bare system calls")]

mod counts;
mod files;
mod kernel;
mod limits;
mod mounts;
mod network;
mod processes;
mod side_by_side;

use std::process::ExitCode;

/// Whether the jail held, or what could be done.
pub(crate) type Verdict = Result<(), String>;

/// Something to try, told what it needs to know.
pub(crate) type Attempt = fn(&[String]) -> Verdict;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(name) = args.next() else { return ExitCode::from(2) };
    let args: Vec<_> = args.collect();
    let topics = [
        counts::ATTEMPTS,
        files::ATTEMPTS,
        kernel::ATTEMPTS,
        limits::ATTEMPTS,
        mounts::ATTEMPTS,
        network::ATTEMPTS,
        processes::ATTEMPTS,
        side_by_side::ATTEMPTS,
    ];
    let attempt = topics.iter().flat_map(|topic| topic.iter()).find(|(known, _)| *known == name);
    let Some((_, attempt)) = attempt else {
        eprintln!("no attempt is called {name}");
        return ExitCode::from(2);
    };
    match attempt(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(done) => {
            eprintln!("ESCAPED: {done}");
            ExitCode::FAILURE
        }
    }
}

/// Sees that a system call was refused.
pub(crate) fn refused(what: &str, result: impl Into<i64>) -> Verdict {
    let result = result.into();
    if result >= 0 {
        return Err(format!("{what} gave {result}"));
    }
    eprintln!("{what}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Sees that something of std's was refused.
pub(crate) fn failed<T>(what: &str, result: std::io::Result<T>) -> Verdict {
    match result {
        Ok(_) => Err(format!("{what} worked")),
        Err(error) => {
            eprintln!("{what}: {error}");
            Ok(())
        }
    }
}

/// The argument at `index`, as a string that the kernel takes.
pub(crate) fn path(args: &[String], index: usize) -> Result<std::ffi::CString, String> {
    let arg = args.get(index).ok_or("ESCAPE KIT: an argument is missing")?;
    std::ffi::CString::new(arg.as_str()).map_err(|error| error.to_string())
}
