//! Using up what others need too.

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{Attempt, Verdict, refused};

pub(crate) const ATTEMPTS: &[(&str, Attempt)] = &[
    ("fork-bomb", fork_bomb),
    ("thread-bomb", thread_bomb),
    ("exhaust-descriptors", exhaust_descriptors),
    ("use-up-signals", use_up_signals),
    ("raise-limits", raise_limits),
    ("raise-limits-of-the-init", raise_limits_of_the_init),
    ("dump-core", dump_core),
    ("fill-the-root", fill_the_root),
];

/// More than any of the limits here.
const MANY: usize = 20_000;

fn fork_bomb(_: &[String]) -> Verdict {
    for children in 0..MANY {
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            0 => loop {
                // SAFETY: waits for its end.
                unsafe { libc::pause() };
            },
            -1 => {
                eprintln!("the end after {children}: {}", std::io::Error::last_os_error());
                return if children < 10_000 { Ok(()) } else { Err(format!("{children} processes")) };
            }
            _ => {}
        }
    }
    Err(format!("{MANY} processes"))
}

fn thread_bomb(_: &[String]) -> Verdict {
    for threads in 0..MANY {
        let builder = std::thread::Builder::new().stack_size(16 * 1024);
        if let Err(error) = builder.spawn(std::thread::park) {
            eprintln!("the end after {threads}: {error}");
            return if threads < 10_000 { Ok(()) } else { Err(format!("{threads} threads")) };
        }
    }
    Err(format!("{MANY} threads"))
}

fn exhaust_descriptors(_: &[String]) -> Verdict {
    let mut files = Vec::new();
    while files.len() < MANY {
        match File::open("/dev/null") {
            Ok(file) => files.push(file),
            Err(error) => {
                eprintln!("the end after {}: {error}", files.len());
                return if files.len() < 15_000 { Ok(()) } else { Err(format!("{} files", files.len())) };
            }
        }
    }
    Err(format!("{MANY} files"))
}

/// A host's user has thousands.
fn use_up_signals(_: &[String]) -> Verdict {
    match test_utils::raw::use_up_signals() {
        0..=1000 => Ok(()),
        pending => Err(format!("{pending} pending signals")),
    }
}

fn raise_limits(_: &[String]) -> Verdict {
    for resource in [Resource::Nofile, Resource::Nproc, Resource::Core, Resource::Sigpending] {
        let maximum = getrlimit(resource).maximum.ok_or("there is no limit")?;
        let more = Some(maximum + 1);
        match setrlimit(resource, Rlimit { current: more, maximum: more }) {
            Ok(()) => return Err(format!("{resource:?} is {more:?}")),
            Err(errno) => eprintln!("{resource:?}: {errno}"),
        }
    }
    Ok(())
}

fn raise_limits_of_the_init(_: &[String]) -> Verdict {
    let limit = [u64::MAX; 2];
    // SAFETY: `limit` is what the call reads.
    let set = unsafe { libc::syscall(libc::SYS_prlimit64, 1, libc::RLIMIT_NOFILE, limit.as_ptr(), 0) };
    refused("prlimit64", set)
}

/// With a limit of 0 the host may still start a program that takes cores; with one of 1 it does not.
fn dump_core(_: &[String]) -> Verdict {
    match getrlimit(Resource::Core).maximum {
        Some(1) => Ok(()),
        other => Err(format!("a core may have {other:?}")),
    }
}

fn fill_the_root(_: &[String]) -> Verdict {
    for directory in ["/", "/tmp", "/dev", "/etc"] {
        crate::failed(directory, std::fs::write(format!("{directory}/x"), [0; 4096]))?;
    }
    Ok(())
}
