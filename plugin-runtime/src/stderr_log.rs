//! The plugin's standard error, line by line into the log.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::io::{Errno, retry_on_intr};

use crate::log_budget::{Admission, LogBudget};
use crate::stderr_tail::StderrTail;

/// A longer line is logged in pieces of this many bytes.
const LONGEST_LINE: usize = 1024;

/// The reading end of the plugin's standard error, not blocking.
pub(crate) struct StderrLog {
    plugin: String,
    pipe: OwnedFd,
    line: Vec<u8>,
    budget: LogBudget,
    tail: StderrTail,
}

/// What is left to read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// More may come.
    Open,
    /// Nothing: all writers are gone.
    Ended,
}

impl StderrLog {
    pub(crate) fn new(plugin: String, pipe: OwnedFd) -> Self {
        Self { plugin, pipe, line: Vec::new(), budget: LogBudget::new(), tail: StderrTail::default() }
    }

    /// Logs what is there, but no more than `most` bytes, so that a plugin that never stops writing does not keep the
    /// caller.
    pub(crate) fn log_available(&mut self, most: usize) -> Left {
        let mut buffer = [0; 4096];
        let mut left = most;
        while left > 0 {
            let room = buffer.len().min(left);
            match retry_on_intr(|| rustix::io::read(&self.pipe, buffer.get_mut(..room).unwrap_or_default())) {
                Ok(0) => return Left::Ended,
                Ok(len) => {
                    left = left.saturating_sub(len);
                    self.tail.push(buffer.get(..len).unwrap_or_default());
                    self.take(buffer.get(..len).unwrap_or_default());
                }
                Err(Errno::AGAIN) => return Left::Open,
                // A pipe that cannot be read is as good as ended.
                Err(errno) => {
                    tracing::warn!(
                        plugin = self.plugin,
                        "its standard error is logged no more: {}",
                        io::Error::from(errno)
                    );
                    return Left::Ended;
                }
            }
        }
        Left::Open
    }

    /// Logs what the plugin, which has ended, left behind: what is in the pipe now, a last line that has no end, and the
    /// count of what was dropped. A child of the plugin's may go on writing; that is not waited for.
    pub(crate) fn log_rest(&mut self) {
        let waiting = rustix::io::ioctl_fionread(&self.pipe).unwrap_or(0);
        self.log_available(usize::try_from(waiting).unwrap_or(usize::MAX));
        self.finish();
    }

    /// Logs a last line that has no end, and what was dropped.
    pub(crate) fn finish(&mut self) {
        if !self.line.is_empty() {
            self.log_line();
        }
        let dropped = self.budget.untold();
        if dropped > 0 {
            tracing::warn!(plugin = self.plugin, dropped, "lines of standard error were not logged");
        }
    }

    /// The last lines, the oldest first: also those that were not logged.
    pub(crate) fn last_lines(&self) -> impl Iterator<Item = String> {
        self.tail.lines().map(|line| printable(line.get(..LONGEST_LINE).unwrap_or(line)))
    }

    /// Logs the last lines as errors: the plugin has failed, and they may say why.
    pub(crate) fn log_last_lines_as_errors(&self) {
        for line in self.last_lines() {
            tracing::error!(plugin = self.plugin, "{line}");
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.log_line();
                continue;
            }
            self.line.push(byte);
            if self.line.len() >= LONGEST_LINE {
                self.log_line();
            }
        }
    }

    fn log_line(&mut self) {
        let line = printable(&self.line);
        self.line.clear();
        match self.budget.admit(Instant::now()) {
            Admission::Drop => {}
            Admission::Log { dropped: 0 } => tracing::info!(plugin = self.plugin, "{line}"),
            Admission::Log { dropped } => tracing::info!(plugin = self.plugin, dropped, "{line}"),
        }
    }
}

impl AsFd for StderrLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// The line as text that cannot steer a terminal: control characters are escaped.
fn printable(line: &[u8]) -> String {
    let mut text = String::with_capacity(line.len());
    for character in String::from_utf8_lossy(line).trim_end_matches('\r').chars() {
        if character.is_control() && character != '\t' {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(printable(b"a\tb\x1b[2Jc\r"), "a\tb\\u{1b}[2Jc");
        assert_eq!(printable(b"\xff"), "\u{fffd}");
    }

    fn log() -> (StderrLog, OwnedFd) {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        (StderrLog::new("test".into(), read), write)
    }

    #[test]
    fn the_end_is_seen_after_the_last_byte() {
        let (mut log, write) = log();
        assert_eq!(log.log_available(100), Left::Open);
        rustix::io::write(&write, b"half a li").unwrap();
        drop(write);
        assert_eq!(log.log_available(100), Left::Ended);
        assert_eq!(log.line, b"half a li");
        log.finish();
        assert!(log.line.is_empty());
    }

    #[test]
    fn what_is_written_after_the_plugins_end_is_not_waited_for() {
        let (mut log, write) = log();
        rustix::io::write(&write, &[b'x'; 5000]).unwrap();
        assert_eq!(log.log_available(4096), Left::Open);
        assert_eq!(rustix::io::ioctl_fionread(&log.pipe).unwrap(), 904);
        log.log_rest();
        assert_eq!(rustix::io::ioctl_fionread(&log.pipe).unwrap(), 0);
    }

    #[test]
    fn a_line_without_end_is_kept_short() {
        let (mut log, write) = log();
        for _ in 0..10 {
            rustix::io::write(&write, &[b'x'; 4000]).unwrap();
            log.log_available(4096);
            assert!(log.line.len() < LONGEST_LINE);
        }
    }
}
