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

/// A longer line is logged in fragments of this many bytes.
const LONGEST_LINE: usize = 1024;

/// Bytes that are read at once: as much as a pipe holds by default (pipe(7)), so that a flood costs the VMM few system calls.
const READ_SIZE: usize = 0x10000;

/// The reading end of the plugin's standard error, not blocking.
pub(crate) struct StderrLog {
    plugin: String,
    pipe: OwnedFd,
    buffer: Vec<u8>,
    /// The beginning of a line whose end has not come.
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
        let (buffer, tail) = (vec![0; READ_SIZE], StderrTail::default());
        Self { plugin, pipe, buffer, line: Vec::new(), budget: LogBudget::new(), tail }
    }

    /// Logs what is there, but no more than `most` bytes, so that a plugin that never stops writing does not keep the
    /// caller.
    pub(crate) fn log_available(&mut self, most: usize) -> Left {
        let mut left = most;
        while left > 0 {
            let space = self.buffer.len().min(left);
            let read = retry_on_intr(|| rustix::io::read(&self.pipe, self.buffer.get_mut(..space).unwrap_or_default()));
            match read {
                Ok(0) => return Left::Ended,
                Ok(len) => {
                    left = left.saturating_sub(len);
                    let buffer = std::mem::take(&mut self.buffer);
                    self.tail.push(buffer.get(..len).unwrap_or_default());
                    self.take(buffer.get(..len).unwrap_or_default(), Instant::now());
                    self.buffer = buffer;
                    // There is no more for now; to ask the kernel would cost as much as the plugin's write.
                    if len < space {
                        return Left::Open;
                    }
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
        let mut left = usize::try_from(waiting).unwrap_or(usize::MAX);
        while left > 0 && self.log_available(left.min(READ_SIZE)) == Left::Open {
            left = left.saturating_sub(READ_SIZE);
        }
        self.finish();
    }

    /// Logs a last line that has no end, and what was dropped.
    pub(crate) fn finish(&mut self) {
        if !self.line.is_empty() {
            self.log_line(Instant::now());
        }
        let dropped = self.budget.untold();
        if dropped > 0 {
            tracing::warn!(plugin = self.plugin, dropped, "lines of standard error were not logged");
        }
    }

    /// Takes in what came at `now`.
    fn take(&mut self, mut bytes: &[u8], now: Instant) {
        while !bytes.is_empty() {
            if self.budget.is_used_up(now) {
                return self.skip(bytes);
            }
            let space = LONGEST_LINE.saturating_sub(self.line.len());
            let near = bytes.get(..space).unwrap_or(bytes);
            let (taken, skipped) = match near.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end, end.saturating_add(1)),
                None => (near.len(), near.len()),
            };
            self.line.extend_from_slice(bytes.get(..taken).unwrap_or_default());
            if skipped > taken || self.line.len() >= LONGEST_LINE {
                self.log_line(now);
            }
            bytes = bytes.get(skipped..).unwrap_or_default();
        }
    }

    /// The last lines, the oldest first, also those that were not logged, with all escaped that is not printed as itself.
    pub(crate) fn last_lines(&self) -> impl Iterator<Item = String> {
        self.tail.lines().map(|line| quoted(line.get(..LONGEST_LINE).unwrap_or(line)))
    }

    /// Logs the last lines as errors: the plugin has failed, and they may say why.
    pub(crate) fn log_last_lines_as_errors(&self) {
        for line in self.last_lines() {
            tracing::error!(plugin = self.plugin, "{line}");
        }
    }

    /// Takes in what will not be logged: whole lines are counted, and the beginning of the next is kept.
    fn skip(&mut self, bytes: &[u8]) {
        let mut begun = bytes;
        if let Some(last) = bytes.iter().rposition(|byte| *byte == b'\n') {
            self.budget.count_dropped(line_feeds(bytes));
            self.line.clear();
            begun = bytes.get(last.saturating_add(1)..).unwrap_or_default();
        }
        let len = self.line.len().saturating_add(begun.len());
        let fragments = len / LONGEST_LINE;
        if fragments > 0 {
            self.budget.count_dropped(fragments as u64);
            self.line.clear();
            begun = begun.get(begun.len().saturating_sub(len % LONGEST_LINE)..).unwrap_or_default();
        }
        self.line.extend_from_slice(begun);
    }

    fn log_line(&mut self, now: Instant) {
        match self.budget.admit(now) {
            Admission::Drop => {}
            Admission::Log { dropped } => tracing::info!(plugin = self.plugin, dropped, "{}", quoted(&self.line)),
        }
        self.line.clear();
    }
}

impl AsFd for StderrLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// How many there are, counted in steps that a byte has room for: the compiler makes 16 and more of a step at once.
fn line_feeds(bytes: &[u8]) -> u64 {
    let in_chunk = |chunk: &[u8]| chunk.iter().map(|byte| u8::from(*byte == b'\n')).fold(0, u8::wrapping_add);
    bytes.chunks(usize::from(u8::MAX)).map(|chunk| u64::from(in_chunk(chunk))).sum()
}

/// The line in quotation marks, so that nothing in it can be taken for one of the log's own fields, with all escaped that is not
/// printed as itself: control and format characters (those that change the direction of text or have no width), separators
/// of lines and paragraphs, unassigned and private ones, spaces that are none, quotation marks and backslashes.
fn quoted(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    format!("\"{}\"", printable(line.strip_suffix('\r').unwrap_or(&line)))
}

/// The text with all escaped that is not printed as itself.
pub(crate) fn printable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    for character in line.chars() {
        if is_ignored(character) {
            text.extend(character.escape_unicode());
        } else if character == '\'' || !needs_escape(character) {
            text.push(character);
        } else {
            text.extend(character.escape_debug());
        }
    }
    text
}

/// Whether the standard library takes it for what is not printed as itself. A mark that belongs to the character before is printed
/// with it.
fn needs_escape(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control() || matches!(character, '"' | '\\');
    }
    if character.escape_debug().eq([character]) {
        return false;
    }
    let mut with_one_before = String::from("a");
    with_one_before.push(character);
    !with_one_before.escape_debug().skip(1).eq([character])
}

/// Characters that fonts show as nothing although they are letters or marks: the property `Default_Ignorable_Code_Point` of
/// Unicode 16, without those of category Cf.
fn is_ignored(character: char) -> bool {
    matches!(
        character,
        '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2065}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{e0000}'..='\u{e0fff}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_printed_as_itself_is_escaped() {
        assert_eq!(quoted(b"a\tb\x1b[2Jc\r"), r#""a\tb\u{1b}[2Jc""#);
        assert_eq!(quoted(b"\xff"), "\"\u{fffd}\"");
        // Directions, separators, no width, tags, a joiner, private use, an ignored letter, a selector, a wide space, C1.
        for hidden in [
            '\u{202e}',
            '\u{2066}',
            '\u{200f}',
            '\u{61c}',
            '\u{2028}',
            '\u{2029}',
            '\u{200b}',
            '\u{feff}',
            '\u{2060}',
            '\u{e0041}',
            '\u{e007f}',
            '\u{200d}',
            '\u{e000}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{e0100}',
            '\u{a0}',
            '\u{3000}',
            '\u{9b}',
            '\u{ad}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{34f}',
        ] {
            let expected = format!("\"a\\u{{{:x}}}b\"", u32::from(hidden));
            assert_eq!(quoted(format!("a{hidden}b").as_bytes()), expected);
        }
        // Other languages, marks, symbols.
        for plain in [
            "it's",
            "\u{e4}\u{df}",
            "e\u{301}",
            "\u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947}",
            "\u{4f60}\u{597d}",
            "\u{1f600}",
        ] {
            assert_eq!(quoted(plain.as_bytes()), format!("\"{plain}\""));
        }
    }

    #[test]
    fn a_line_cannot_leave_its_quotation_marks() {
        assert_eq!(quoted(br#"x" plugin=other"#), r#""x\" plugin=other""#);
        assert_eq!(quoted(br#"x\" dropped=5"#), r#""x\\\" dropped=5""#);
    }

    #[test]
    fn lines_beyond_the_budget_are_counted_and_not_kept() {
        let (mut log, _write) = log();
        let now = Instant::now();
        log.take("line\n".repeat(250).as_bytes(), now);
        log.take(b"half", now);
        assert_eq!((log.budget.untold(), &*log.line), (150, &b"half"[..]));
        log.take(b" a line\n\n\nand", now);
        assert_eq!((log.budget.untold(), &*log.line), (3, &b"and"[..]));
        log.take(&[b'x'; 3000], now);
        assert_eq!((log.budget.untold(), log.line.len()), (2, 3003 - 2 * LONGEST_LINE));
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
        assert_eq!(log.log_available(100), Left::Open);
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
