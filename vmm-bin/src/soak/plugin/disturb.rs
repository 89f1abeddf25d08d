//! Those who disturb the guests at their work, each on a thread and a connection of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use plugin_sdk::{AddressSpace, Connection, Error, MemoryFlags, PAGE_SIZE};

use super::shared::Shared;
use crate::error::Failure;
use crate::soak::counters::Count;
use crate::soak::layout::{self, VCPUS};
use crate::soak::plan::{EVENT_LIFE, Paces};
use crate::soak::random::Random;

/// What one of them does until it is to stop.
type Work = fn(&mut Disturber) -> Result<(), Failure>;

/// How long it rests at most.
type Pace = fn(&Paces) -> Duration;

const ALL: [(&str, Work, Pace); 6] = [
    ("pauses", pause, |paces| paces.pauses),
    ("memory", remap, |paces| paces.memory),
    ("ranges", change_ranges, |paces| paces.ranges),
    ("events", raise_events, |paces| paces.events),
    ("pulses", pulse, |paces| paces.pulses),
    ("connections", open_and_close, |paces| paces.connections),
];

/// More connections than a plugin may have.
const TOO_MANY: usize = 70;
/// A line that leads to no handler and is never raised.
const IDLE_LINE: u32 = 10;
/// `EMFILE`
const TOO_MANY_ERRNO: i32 = 24;

struct Disturber {
    vm: Connection,
    random: Random,
    pace: Duration,
    shared: Arc<Shared>,
}

impl Disturber {
    fn rest(&mut self) {
        thread::sleep(self.random.time(self.pace));
    }

    fn goes_on(&self) -> bool {
        !self.shared.is_stopping()
    }

    fn count(&self, count: Count) {
        self.shared.counters.add(count, 1);
    }
}

/// A connection for each.
pub(super) fn connect(vm: &mut Connection) -> Result<Vec<Connection>, Error> {
    ALL.iter().map(|_| vm.new_connection()).collect()
}

/// Starts them. A failure is told through `shared`.
pub(super) fn start(connections: Vec<Connection>, shared: &Arc<Shared>) -> Vec<JoinHandle<()>> {
    let mut threads = Vec::new();
    for (number, ((name, work, pace), vm)) in (100..).zip(ALL.into_iter().zip(connections)) {
        let mut disturber = Disturber {
            vm,
            random: Random::stream(shared.plan.seed, number),
            pace: pace(&shared.plan.paces),
            shared: Arc::clone(shared),
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
            let ended = work(&mut disturber);
            disturber.shared.tell(ended);
        });
        match thread {
            Ok(thread) => threads.push(thread),
            Err(error) => shared.tell(Err(error.into())),
        }
    }
    threads
}

/// Pauses some vCPUs, with or without waiting until they have all reported it. The last pause is of all, halted ones too.
fn pause(it: &mut Disturber) -> Result<(), Failure> {
    loop {
        let last = !it.goes_on();
        let mask = if last { u64::MAX } else { it.random.next() };
        let number = it.shared.pauses.fetch_add(1, Ordering::SeqCst) + 1;
        it.vm.pause_vcpus(mask, number)?;
        if last || it.random.once_in(2) {
            it.shared.wait(&format!("pause {number} of {:#x} was reported", mask & 0xff), |state| {
                (0..VCPUS).all(|vcpu| mask >> vcpu & 1 == 0 || state.paused[vcpu] >= number)
            })?;
        }
        if last {
            return Ok(());
        }
        it.rest();
    }
}

/// Lets a page be RAM, of one memory or the other, or not be RAM.
fn remap(it: &mut Disturber) -> Result<(), Failure> {
    while it.goes_on() {
        let flags = MemoryFlags { read_only: it.random.once_in(4), dirty_log: it.random.once_in(3) };
        let memory = &it.shared.windows[it.random.below(2) as usize];
        let mapped = it.vm.map_memory(memory, 0..PAGE_SIZE, layout::WINDOW, flags)?;
        it.rest();
        if flags.dirty_log {
            it.vm.dirty_log(&mapped)?;
        }
        it.vm.unmap(mapped)?;
        it.count(Count::Remaps);
        if it.random.once_in(2) {
            it.rest();
        }
    }
    Ok(())
}

/// Reserves ports that guests write to, and others, and releases them.
fn change_ranges(it: &mut Disturber) -> Result<(), Failure> {
    while it.goes_on() {
        it.vm.reserve_range(AddressSpace::Pio, layout::FICKLE_PORTS, layout::PORTS)?;
        let others: Vec<u64> = (0..it.random.below(20)).map(|number| (1 << 32) + number * 2 * PAGE_SIZE).collect();
        for start in &others {
            if it.random.once_in(2) {
                it.vm.reserve_coalesced_write_range(AddressSpace::Mmio, *start, PAGE_SIZE)?;
            } else {
                it.vm.reserve_async_write_range(AddressSpace::Mmio, *start, PAGE_SIZE)?;
            }
        }
        it.rest();
        it.vm.release_range(AddressSpace::Pio, layout::FICKLE_PORTS)?;
        for start in others {
            it.vm.release_range(AddressSpace::Mmio, start)?;
        }
        it.count(Count::Ranges);
    }
    Ok(())
}

/// Interrupts vCPU 0 by irqfds, which come and go.
fn raise_events(it: &mut Disturber) -> Result<(), Failure> {
    it.shared.wait("vCPU 0 takes interrupts", |state| state.ready)?;
    while it.goes_on() {
        let event = it.vm.create_irq_event(layout::EVENT_LINE)?;
        for _ in 0..1 + it.random.below(EVENT_LIFE) {
            let number = it.shared.raise(layout::EVENT_LINE);
            event.raise()?;
            event.wait_resample()?;
            // The handler has told it before it ended the interrupt.
            it.shared.wait(&format!("irqfd interrupt {number} was handled"), |state| {
                state.handled[layout::EVENT_LINE as usize] == number
            })?;
            it.rest();
        }
        it.vm.destroy_irq_event(event)?;
    }
    Ok(())
}

/// Interrupts vCPU 0 by a line that is raised and lowered.
fn pulse(it: &mut Disturber) -> Result<(), Failure> {
    it.shared.wait("vCPU 0 takes interrupts", |state| state.ready)?;
    while it.goes_on() {
        let number = it.shared.raise(layout::PULSE_LINE);
        it.vm.set_irq(layout::PULSE_LINE, true)?;
        it.vm.set_irq(layout::PULSE_LINE, false)?;
        it.shared.wait(&format!("interrupt {number} of the line was handled"), |state| {
            state.handled[layout::PULSE_LINE as usize] == number
        })?;
        it.rest();
    }
    Ok(())
}

/// Opens connections, some of them over each other, asks something over each, and closes them; sometimes it wants too many.
fn open_and_close(it: &mut Disturber) -> Result<(), Failure> {
    while it.goes_on() {
        let wanted = if it.random.once_in(16) { TOO_MANY } else { 1 + it.random.below(8) as usize };
        let mut open: Vec<Connection> = Vec::new();
        while open.len() < wanted {
            let over = open.last_mut().filter(|_| it.random.once_in(2)).unwrap_or(&mut it.vm);
            match over.new_connection() {
                Ok(connection) => open.push(connection),
                Err(error) if wanted == TOO_MANY && error.errno() == Some(TOO_MANY_ERRNO) => break,
                Err(error) => return Err(error.into()),
            }
            it.count(Count::Connections);
        }
        if open.len() == TOO_MANY {
            return Err(format!("a plugin has {TOO_MANY} connections").into());
        }
        for connection in &mut open {
            connection.set_irq(IDLE_LINE, false)?;
        }
        if it.random.once_in(2) {
            open.reverse();
        }
        drop(open);
        it.rest();
    }
    Ok(())
}
