//! `outboard soak`: random guests under load, until something is wrong or the time is up.
//!
//! A round is one VM of eight vCPUs with a plugin process, made from a seed and the round's number. Its guests number what
//! they do, so that the plugin sees whether an exit is lost, comes twice or comes out of order. Between rounds this process, which
//! is the VMM of all of them, must hold no more than before.

mod counters;
mod layout;
mod model;
mod plan;
pub(crate) mod plugin;
mod program;
mod random;
mod report;
mod resources;
mod round;
mod timeout;

use std::fs::{File, OpenOptions, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::geteuid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::backend::{Backend, Choice};
use crate::cli::SoakArgs;
use crate::error::Error;
use crate::processes;
use counters::Sheet;
use plan::Plan;
use report::{Report, say};
use resources::Resources;
use round::{Outcome, Round};
use timeout::Timeout;

/// How often it is told how far it is.
const PROGRESS: Duration = Duration::from_secs(5);
/// Rounds until all that is kept for later has been taken once: buffers, arenas, stacks.
const WARM_UP: usize = 16;
/// How long the system may take to take back what a round had.
const SETTLE: Duration = Duration::from_secs(10);

/// Runs rounds until the time is up.
pub(crate) fn run(args: &SoakArgs) -> Result<(), Error> {
    let backends = backends(args.hypervisor)?;
    let seed = args.seed.unwrap_or_else(|| RandomState::new().hash_one(std::process::id()));
    say(&format!("seed {seed}; {}", names(&backends)))?;
    let sheet = SheetFile::new().map_err(Error::system("making a file for the plugin's numbers"))?;
    let told = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&told)).map_err(Error::system("setting a signal's handler"))?;
    }
    let mut soak = Soak { seed, backends, sheet, told, report: Report::new(), flat: Flat::default() };
    let result = match args.round {
        Some(round) => soak.round(round).map(drop),
        None => soak.rounds(Duration::from_secs_f64(60.0 * args.minutes)),
    };
    say(&soak.report.closing(seed))?;
    result
}

/// KVM and the mock in turns, where there is KVM and nothing else was asked for.
fn backends(choice: Choice) -> Result<Vec<Backend>, Error> {
    Ok(match choice {
        Choice::Auto => match Backend::open(Choice::Auto)? {
            Backend::Mock => vec![Backend::Mock],
            kvm => vec![kvm, Backend::Mock],
        },
        one => vec![Backend::open(one)?],
    })
}

fn names(backends: &[Backend]) -> String {
    backends.iter().map(|backend| backend.hypervisor().name()).collect::<Vec<_>>().join(" and ")
}

struct Soak {
    seed: u64,
    backends: Vec<Backend>,
    sheet: SheetFile,
    /// Set by the signals that end it.
    told: Arc<AtomicBool>,
    report: Report,
    flat: Flat,
}

/// Whether the soak goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    Stop,
}

impl Soak {
    fn rounds(&mut self, time: Duration) -> Result<(), Error> {
        let begun = Instant::now();
        let mut told = Instant::now();
        for number in 0.. {
            if begun.elapsed() >= time || self.round(number)? == Then::Stop {
                break;
            }
            if told.elapsed() >= PROGRESS {
                told = Instant::now();
                say(&self.report.progress(begun.elapsed(), time))?;
            }
        }
        Ok(())
    }

    fn round(&mut self, number: u64) -> Result<Then, Error> {
        let plan = Plan::new(self.seed, number);
        let backend = &self.backends[number as usize % self.backends.len()];
        let name = backend.hypervisor().name();
        tracing::debug!("round {number}: {name}, {plan}");
        let round =
            Round { backend, seed: self.seed, number, plan: &plan, sheet: &self.sheet.sheet, path: &self.sheet.path };
        let outcome = round.run()?;
        let failed =
            |problem| Error::Soak { problem, round: number, backend: name, plan: plan.to_string(), seed: self.seed };
        match outcome {
            Outcome::Good(numbers) => self.report.add(name, &plan, &numbers),
            Outcome::Bad(problem) => return Err(failed(problem)),
            Outcome::Told if self.told.load(Ordering::SeqCst) => {
                say("ended by a signal")?;
                return Ok(Then::Stop);
            }
            Outcome::Told => return Err(failed("the VM ended before its guests had done their work".into())),
        }
        self.flat.check(&mut self.report)?.map_or(Ok(Then::GoOn), |problem| Err(failed(problem)))
    }
}

/// Sees that this process holds no more than after the first rounds.
#[derive(Default)]
struct Flat {
    rounds: usize,
    most: Resources,
}

impl Flat {
    /// What is wrong after a round.
    fn check(&mut self, report: &mut Report) -> Result<Option<String>, Error> {
        let look = || Resources::now().map_err(Error::system("looking at what this process holds"));
        let mut timeout = Timeout::new(SETTLE);
        self.rounds += 1;
        loop {
            let now = look()?;
            let child = processes::has_child().map_err(Error::system("looking for children"))?;
            if self.rounds <= WARM_UP {
                self.most = self.most.max(now);
            }
            if !child && now.is_flat_since(self.most) {
                report.hold(now);
                return Ok(None);
            }
            if timeout.is_over() {
                let most = self.most;
                let child = if child { ", and a child is left" } else { "" };
                return Ok(Some(format!("more is held than the {most} of the first rounds: {now}{child}")));
            }
            // A thread that was joined is in /proc until the kernel has taken it away.
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The file for the numbers, which goes when this does.
struct SheetFile {
    sheet: Sheet,
    path: PathBuf,
}

impl SheetFile {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("outboard-soak-{}", std::process::id()));
        let file: File = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let made = Self { sheet: Sheet::new(file.try_clone()?), path };
        // The jail of root's plugin has a user of its own, another one each time.
        if geteuid().is_root() {
            file.set_permissions(Permissions::from_mode(0o666))?;
        }
        Ok(made)
    }
}

impl Drop for SheetFile {
    fn drop(&mut self) {
        // It is small, in a directory that is emptied.
        let _ = std::fs::remove_file(&self.path);
    }
}
