//! The soak's plugin: answers eight vCPUs, each on a thread of its own, while others disturb them.

mod disturb;
mod machine;
mod serve;
mod shared;

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, unbounded};
use plugin_sdk::Connection;

use super::counters::{Counters, Sheet};
use super::layout::VCPUS;
use super::plan::{Ending, Plan};
use super::timeout::Timeout;
use crate::error::{Error, Failure};
use shared::{Shared, Word};

/// The exit code of a plugin that has something to complain about.
pub(super) const COMPLAINS: i32 = 3;
/// The exit code of a plugin that was told to end before its time.
pub(super) const TOLD: i32 = 4;

/// Longer than any round takes on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);
/// How often the numbers are written down.
const NOTE: Duration = Duration::from_millis(20);

/// What `outboard soak-plugin` does, started by the VMM.
pub(crate) fn run(seed: u64, round: u64, sheet: &Path) -> Result<(), Error> {
    let file = File::options().write(true).open(sheet);
    let sheet = Sheet::new(file.map_err(Error::system(format!("opening {}", sheet.display())))?);
    let plan = Plan::new(seed, round);
    let counters = Arc::new(Counters::default());
    let end = match work(&plan, &counters, &sheet) {
        Ok(code) => code,
        Err(complaint) => {
            // The VMM logs it.
            eprintln!("{complaint}");
            sheet.complain(&complaint.to_string()).map_err(Error::system("writing a complaint"))?;
            COMPLAINS
        }
    };
    sheet.write(&counters).map_err(Error::system("writing the numbers"))?;
    // The threads are left where they are.
    std::process::exit(end)
}

/// Does what the plan says: the exit code to end with.
fn work(plan: &Plan, counters: &Arc<Counters>, sheet: &Sheet) -> Result<i32, Failure> {
    let mut vm = Connection::from_env()?;
    let (words, heard) = unbounded();
    let shared = Arc::new(Shared::new(plan.clone(), Arc::clone(counters), words)?);
    let bells = machine::set_up(&mut vm, &shared)?;
    let mut shutdown = File::from(vm.shutdown_eventfd()?);
    let vcpus = vm.vcpus()?;
    let disturbers = disturb::connect(&mut vm)?;
    for (vcpu, bells) in vcpus.into_iter().zip(bells) {
        let shared = Arc::clone(&shared);
        thread::spawn(move || shared.tell(serve::serve(vcpu, bells, &shared)));
    }
    let told = Arc::clone(&shared);
    thread::spawn(move || {
        let read = shutdown.read_exact(&mut [0; 8]);
        told.say(read.map_or_else(|error| Word::Failed(error.into()), |()| Word::Told));
    });
    vm.start()?;
    let threads = disturb::start(disturbers, &shared);
    let mut progress = Progress { done: [false; VCPUS], begun: Instant::now(), timeout: Timeout::new(LIMIT) };
    match plan.ending {
        Ending::Quits { code, after } => progress.quit(&heard, &shared, sheet, after).map(|told| told.unwrap_or(code)),
        Ending::Killed { .. } => progress.listen(&heard, &shared, sheet, |_| false).map(|_| TOLD),
        Ending::Fault { vcpu } => {
            // The VM ends when the guest has.
            progress.listen(&heard, &shared, sheet, |_| false)?;
            if progress.done[vcpu] { Ok(0) } else { Ok(TOLD) }
        }
        Ending::Done => {
            if progress.listen(&heard, &shared, sheet, |done| done.iter().all(|done| *done))? == Heard::Told {
                return Ok(TOLD);
            }
            shared.stop();
            for thread in threads {
                let name = thread.thread().name().unwrap_or_default().to_owned();
                while !thread.is_finished() {
                    progress.check_time(&format!("the thread {name} does not end"))?;
                    progress.hear(&heard, &shared, sheet)?;
                }
            }
            // Whatever the last of them had to say.
            while let Ok(word) = heard.try_recv() {
                progress.take(word)?;
            }
            shared.check_all_was_handled()?;
            shared.check_all_coalesced_came()?;
            Ok(0)
        }
    }
}

/// Which vCPUs have done all they had to do.
struct Progress {
    done: [bool; VCPUS],
    begun: Instant,
    timeout: Timeout,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    /// What was waited for.
    Enough,
    /// That the VM ends.
    Told,
}

impl Progress {
    fn listen(
        &mut self,
        heard: &Receiver<Word>,
        shared: &Shared,
        sheet: &Sheet,
        enough: impl Fn(&[bool; VCPUS]) -> bool,
    ) -> Result<Heard, Failure> {
        loop {
            if enough(&self.done) {
                return Ok(Heard::Enough);
            }
            if self.hear(heard, shared, sheet)? == Heard::Told {
                return Ok(Heard::Told);
            }
            self.check_time("not all vCPUs are done")?;
        }
    }

    /// Waits for some time: the code to end with if the VM ended before.
    fn quit(
        &mut self,
        heard: &Receiver<Word>,
        shared: &Shared,
        sheet: &Sheet,
        after: Duration,
    ) -> Result<Option<i32>, Failure> {
        let due = self.begun + after;
        while Instant::now() < due {
            if self.hear(heard, shared, sheet)? == Heard::Told {
                return Ok(Some(TOLD));
            }
        }
        Ok(None)
    }

    /// Takes the next word, if there is one soon, and writes the numbers down.
    fn hear(&mut self, heard: &Receiver<Word>, shared: &Shared, sheet: &Sheet) -> Result<Heard, Failure> {
        let word = heard.recv_timeout(NOTE);
        sheet.write(&shared.counters)?;
        match word {
            Ok(word) => self.take(word),
            // The sender is in `shared`.
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(Heard::Enough),
        }
    }

    fn take(&mut self, word: Word) -> Result<Heard, Failure> {
        match word {
            Word::Done { vcpu } => {
                self.done[vcpu] = true;
                Ok(Heard::Enough)
            }
            Word::Told => Ok(Heard::Told),
            Word::Failed(failure) => Err(failure),
        }
    }

    fn check_time(&mut self, what: &str) -> Result<(), Failure> {
        if !self.timeout.is_over() {
            return Ok(());
        }
        let left: Vec<_> = (0..VCPUS).filter(|vcpu| !self.done[*vcpu]).collect();
        Err(format!("{what} after {LIMIT:?}; vCPUs that are not done: {left:?}").into())
    }
}
