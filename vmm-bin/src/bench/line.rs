//! A cache line that goes to another thread and back: the least that an answer over shared memory can cost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use plugin_proto::ring::{between_looks, hand_over, turn};

use super::processors::pin_this_thread;
use crate::error::Error;

/// Every so many looks others are let run: on one processor nothing would come back else. The sender wakes the other thread then,
/// for it may sleep.
const LOOKS: u32 = 1024;

/// So often that happens before the other thread sleeps: some tens of microseconds, more than lies between two exits. While the
/// blocks of other links are measured it must not take a processor.
const TURNS: u32 = 16;

/// What the other thread is asked when it is to end.
const END: u64 = u64::MAX;

/// One number on cache lines of its own: processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Word(AtomicU64);

#[derive(Debug, Default)]
struct Words {
    there: Word,
    back: Word,
}

/// One line each way, and the thread at the other end.
#[derive(Debug)]
pub(super) struct Line {
    words: Arc<Words>,
    sent: u64,
    other: Option<JoinHandle<()>>,
}

impl Line {
    /// Starts the other thread, which keeps to processor `core` if there is one.
    pub(super) fn new(core: Option<usize>) -> Result<Self, Error> {
        let words = Arc::<Words>::default();
        let echo = Arc::clone(&words);
        let other = thread::Builder::new()
            .name("line".to_owned())
            .spawn(move || {
                let mut last = 0;
                while last != END {
                    last = echo.there.next(last, |turns| {
                        if turns % TURNS == 0 {
                            thread::park();
                            // All threads of this process were moved to its processor. That there is this one was seen then.
                            let _ = core.map(|core| pin_this_thread(&[core]));
                        }
                    });
                    echo.back.set(last);
                }
            })
            .map_err(Error::system("starting a thread"))?;
        Ok(Self { words, sent: 0, other: Some(other) })
    }

    /// There and back.
    pub(super) fn there_and_back(&mut self) {
        let last = self.sent;
        self.sent = last.wrapping_add(1);
        self.words.there.set(self.sent);
        self.words.back.next(last, |_| self.wake());
    }

    fn wake(&self) {
        self.other.iter().for_each(|other| other.thread().unpark());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.words.there.set(END);
        self.wake();
        if let Some(other) = self.other.take() {
            // It does not panic.
            let _ = other.join();
        }
    }
}

impl Word {
    /// Sets the number, which the other side looks for.
    fn set(&self, number: u64) {
        self.0.store(number, Ordering::Release);
        hand_over(&self.0);
    }

    /// Looks until the number is another than `last`. Where that takes long, `at_turn` is called again and again, with a count from 1.
    fn next(&self, last: u64, at_turn: impl Fn(u32)) -> u64 {
        let mask = turn(LOOKS);
        let (mut looks, mut turns) = (0_u32, 0_u32);
        loop {
            let number = self.0.load(Ordering::Acquire);
            if number != last {
                return number;
            }
            looks = looks.wrapping_add(1);
            if looks & mask == 0 {
                turns = turns.wrapping_add(1);
                at_turn(turns);
                thread::yield_now();
            } else {
                between_looks();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_back_as_often_as_it_is_sent_and_its_thread_ends_with_it() {
        let mut line = Line::new(None).unwrap();
        let words = Arc::clone(&line.words);
        (0..1000).for_each(|_| line.there_and_back());
        assert_eq!(words.back.0.load(Ordering::Relaxed), 1000);
        drop(line);
        assert_eq!((words.back.0.load(Ordering::Relaxed), Arc::strong_count(&words)), (END, 1));
    }
}
