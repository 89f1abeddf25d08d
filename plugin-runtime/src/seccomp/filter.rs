//! A policy, ready to be installed.

use std::path::Path;

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use syscalls::Sysno;
use zerocopy::{FromBytes, IntoBytes};

use super::bpf::{Instruction, MAX_INSTRUCTIONS};
use super::compile::{NOTIFY, compile};
use super::policy::{Comparison, Operator, Otherwise, Policy, Rule};
use crate::error::{Error, Result};

/// The system calls a plugin may make, as a program for the kernel, and what a violation leads to.
///
/// It is plain data: where it is installed, nothing is left to be allocated or decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub(super) program: Vec<Instruction>,
    /// What the last argument must be for the calls that whoever installs the filter still has to make; see `keyed`.
    pub(super) key: u64,
    on_violation: OnViolation,
}

/// What the VMM does when the plugin makes a call that its filter does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnViolation {
    /// It kills the plugin, and the run fails. The call is not made.
    Kill,
    /// It tells of the call in its log, and the call is made.
    Log,
}

impl Filter {
    /// The policy that suits plugins of both SDKs, with any C library, and with threads.
    ///
    /// # Errors
    ///
    /// [`Error::SetUp`] where the kernel has no random numbers to give.
    pub fn builtin() -> Result<Self> {
        let name = Path::new("the built-in plugin.policy");
        Self::new(name, Policy::from_text(name, include_str!("plugin.policy"))?)
    }

    /// The policy in the file `plugin.policy` in `directory`.
    ///
    /// # Errors
    ///
    /// [`Error::ReadPolicy`] names a file that cannot be read, [`Error::Policy`] a file, its line and the token in it that
    /// is wrong, [`Error::LongPolicy`] a file that says more than the kernel takes.
    pub fn from_policy_dir(directory: &Path) -> Result<Self> {
        let path = directory.join("plugin.policy");
        Self::new(&path, Policy::from_file(&path)?)
    }

    /// The same calls, where a violation is told of and goes on.
    pub fn logging(self) -> Self {
        Self { on_violation: OnViolation::Log, ..self }
    }

    /// What a violation leads to.
    pub fn on_violation(&self) -> OnViolation {
        self.on_violation
    }

    fn new(file: &Path, mut policy: Policy) -> Result<Self> {
        let key = random()?;
        add_keyed(&mut policy, key);
        let program = compile(&policy, NOTIFY);
        if program.len() > MAX_INSTRUCTIONS {
            return Err(Error::LongPolicy { file: file.to_owned(), instructions: program.len() });
        }
        Ok(Self { program, key, on_violation: OnViolation::Kill })
    }

    /// All of it in bytes, for another process of this program.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let log = u64::from(self.on_violation == OnViolation::Log);
        let mut bytes = [self.key, log].as_bytes().to_vec();
        bytes.extend_from_slice(self.program.as_bytes());
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) made bytes of; `None` for other bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (key, rest) = u64::read_from_prefix(bytes).ok()?;
        let (log, mut rest) = u64::read_from_prefix(rest).ok()?;
        let on_violation = if log == 0 { OnViolation::Kill } else { OnViolation::Log };
        let mut program = Vec::new();
        while !rest.is_empty() {
            let (instruction, others) = Instruction::read_from_prefix(rest).ok()?;
            program.push(instruction);
            rest = others;
        }
        Some(Self { program, key, on_violation })
    }
}

/// The calls that [`Installed`](super::Installed) makes under the filter, whatever the policy says of them.
///
/// Each takes fewer than six arguments, and the kernel shows the sixth to the filter all the same: so one that carries the
/// key in it is ours. The plugin never learns the key. It lies in the memory that its exec takes away.
const KEYED: [Sysno; 3] = [Sysno::execve, Sysno::sendmsg, Sysno::exit_group];

fn add_keyed(policy: &mut Policy, key: u64) {
    let carries_key = Comparison { argument: 5, operator: Operator::Equal, constant: key };
    for call in KEYED {
        let rule = policy.rules.entry(call).or_insert(Rule { allowed: vec![], otherwise: Otherwise::Violation });
        rule.allowed.push(vec![carries_key]);
    }
}

fn random() -> Result<u64> {
    let mut bytes = [0; 8];
    // So few bytes come whole, or not at all.
    getrandom(&mut bytes, GetRandomFlags::empty())
        .and_then(|count| if count == bytes.len() { Ok(()) } else { Err(Errno::IO) })
        .map_err(Error::set_up("asking for random numbers"))?;
    Ok(u64::from_ne_bytes(bytes))
}
