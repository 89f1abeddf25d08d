//! The last of what a plugin has written to standard error, kept for the case that it fails.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

/// Bytes that are kept.
const KEPT: usize = 8192;

/// Lines that are shown of them.
const LINES: usize = 20;

/// Bytes as they came, whether they were logged or not: a flood costs no more than to copy its end.
#[derive(Debug, Default)]
pub(crate) struct StderrTail {
    /// Up to twice as many as are kept, so that they are moved rarely.
    bytes: Vec<u8>,
    /// The first line's beginning is gone.
    is_cut: bool,
}

impl StderrTail {
    /// Takes in what comes next.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if bytes.len() >= KEPT {
            self.is_cut |= bytes.len() > KEPT || !self.bytes.is_empty();
            self.bytes.clear();
            self.bytes.extend_from_slice(last(bytes, KEPT));
            return;
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= KEPT.saturating_mul(2) {
            self.bytes.drain(..self.bytes.len().saturating_sub(KEPT));
            self.is_cut = true;
        }
    }

    /// The last lines, the oldest first, without their ends.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let kept = last(&self.bytes, KEPT);
        let is_cut = self.is_cut || kept.len() < self.bytes.len();
        let text = kept.strip_suffix(b"\n").unwrap_or(kept);
        let lines = text.split(|byte| *byte == b'\n').skip(usize::from(is_cut && text.contains(&b'\n')));
        let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
        let first = lines.len().saturating_sub(LINES);
        lines.into_iter().skip(first)
    }
}

fn last(bytes: &[u8], most: usize) -> &[u8] {
    bytes.get(bytes.len().saturating_sub(most)..).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(tail: &StderrTail) -> Vec<String> {
        tail.lines().map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    #[test]
    fn the_last_20_lines_are_kept_in_order() {
        let mut tail = StderrTail::default();
        assert_eq!(lines(&tail), [""; 0]);
        for number in 0..5000 {
            tail.push(format!("line {number}\n").as_bytes());
        }
        let expected: Vec<_> = (4980..5000).map(|number| format!("line {number}")).collect();
        assert_eq!(lines(&tail), expected);
        tail.push(b"half");
        assert_eq!(lines(&tail).last().unwrap(), "half");
        tail.push(b" a line");
        assert_eq!(lines(&tail).last().unwrap(), "half a line");
    }

    #[test]
    fn a_line_whose_beginning_is_gone_is_left_out() {
        let mut tail = StderrTail::default();
        tail.push(&[b'x'; 5000]);
        tail.push(b"\nwhole\n");
        assert_eq!(lines(&tail).len(), 2);
        for piece in [4000, 20_000] {
            let mut tail = StderrTail::default();
            for chunk in [&vec![b'x'; 20_000][..], b"\nwhole\n"].concat().chunks(piece) {
                tail.push(chunk);
                assert!(tail.bytes.len() < 2 * KEPT);
            }
            assert_eq!(lines(&tail), ["whole"], "in pieces of {piece}");
        }
    }

    #[test]
    fn one_line_that_is_longer_than_all_is_shown_in_part() {
        let mut tail = StderrTail::default();
        tail.push(&[b'x'; 20_000]);
        assert_eq!(lines(&tail), ["x".repeat(KEPT)]);
    }
}
