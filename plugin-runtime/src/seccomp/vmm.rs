//! The VMM's own filter.
//!
//! A call outside of its policy is not made: the kernel sends `SIGSYS`, whose handler says which call it was and ends the
//! process. So it is as loud as any other error, and an attacker who took over a thread gets nothing out of it.
#![allow(unsafe_code, reason = "a signal handler reads what the kernel tells, and makes async-signal-safe calls only")]

use std::ffi::{c_int, c_void};
use std::path::Path;

use syscalls::Sysno;
use vmm_sys_util::signal::register_signal_handler;

use super::compile::{TRAP, compile};
use super::implied;
use super::install::install;
use super::policy::Policy;
use crate::error::{Error, Result};

/// Puts the filter of `vmm.policy` on this thread and on all that it starts. The thread must have `no_new_privs`.
pub(crate) fn confine_vmm() -> Result<()> {
    let [traced, exceptions] = policy()?;
    let mut policy = traced.or(exceptions);
    implied::allow_of_the_kernel(&mut policy);
    let program = compile(&policy, TRAP);
    register_signal_handler(libc::SIGSYS, tell_and_exit).map_err(Error::set_up("setting the handler of SIGSYS"))?;
    install(&program, 0).map(drop).map_err(Error::set_up("installing the VMM's seccomp filter"))
}

/// Where the second part of `vmm.policy` begins.
const EXCEPTIONS: &str = "# ---- Exceptions";

/// The two parts of the VMM's policy: what its tests make it call, and the exceptions.
pub(super) fn policy() -> Result<[Policy; 2]> {
    let text = include_str!("vmm.policy");
    let (traced, exceptions) = text.split_at(text.find(EXCEPTIONS).unwrap_or(text.len()));
    let read = |part: &str, text| Policy::from_text(Path::new(part), text);
    Ok([read("the built-in vmm.policy", traced)?, read("the exceptions of the built-in vmm.policy", exceptions)?])
}

/// Where `si_syscall` lies in the kernel's `siginfo_t` of a `SIGSYS`: behind three numbers, padding, and an address.
const NUMBER_OFFSET: usize = 24;

extern "C" fn tell_and_exit(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands over a whole `siginfo_t`, 128 bytes, of which it filled in this number.
    let number = unsafe { info.byte_add(NUMBER_OFFSET).cast::<c_int>().read() };
    let mut line = Line::default();
    line.push(b"outboard: error: the VMM made system call ");
    line.push_number(number.unsigned_abs());
    line.push(b" (");
    let name = Sysno::new(number.unsigned_abs() as usize).map_or("of no known name", |call| call.name());
    line.push(name.as_bytes());
    line.push(b"), which its own seccomp filter does not allow. This is a bug.\n");
    // SAFETY: both calls are async-signal-safe, and the first reads so many bytes of `line`.
    unsafe {
        libc::write(libc::STDERR_FILENO, line.bytes.as_ptr().cast(), line.length);
        libc::_exit(1)
    }
}

/// A line of text that needs no memory from an allocator.
struct Line {
    bytes: [u8; 256],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 256], length: 0 }
    }
}

impl Line {
    /// What is too long is cut.
    fn push(&mut self, text: &[u8]) {
        for (to, from) in self.bytes[self.length..].iter_mut().zip(text) {
            *to = *from;
            self.length += 1;
        }
    }

    fn push_number(&mut self, number: u32) {
        if number >= 10 {
            self.push_number(number / 10);
        }
        self.push(&[b'0' + (number % 10) as u8]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seccomp::bpf::MAX_INSTRUCTIONS;
    use crate::seccomp::compile::ALLOW;
    use crate::seccomp::interpreter::{Call, run};

    #[test]
    fn the_policy_is_understood_and_lets_no_file_be_opened_and_nothing_be_executed() {
        let [traced, exceptions] = policy().unwrap();
        assert!(!traced.rules.is_empty() && !exceptions.rules.is_empty());
        let program = compile(&traced.or(exceptions), TRAP);
        assert!(program.len() < MAX_INSTRUCTIONS);
        for call in [
            Sysno::open,
            Sysno::openat,
            Sysno::openat2,
            Sysno::execve,
            Sysno::execveat,
            Sysno::fork,
            Sysno::vfork,
            Sysno::socket,
            Sysno::connect,
            Sysno::ptrace,
            Sysno::bpf,
            Sysno::unlink,
            Sysno::rename,
        ] {
            assert_ne!(run(&program, &Call::new(call.id() as u32, [0; 6])), ALLOW, "{call}");
        }
        let executable = [0, 4096, libc::PROT_EXEC as u64, 0, 0, 0];
        for call in [Sysno::mmap, Sysno::mprotect] {
            assert_eq!(run(&program, &Call::new(call.id() as u32, executable)), TRAP, "{call}");
        }
    }

    #[test]
    fn a_line_has_its_numbers_and_is_cut_where_it_is_full() {
        let mut line = Line::default();
        line.push(b"call ");
        line.push_number(1203);
        line.push_number(0);
        assert_eq!(&line.bytes[..line.length], b"call 12030");
        line.push(&[b'x'; 300]);
        assert_eq!(line.length, 256);
    }
}
