//! The debug port, 0x402: firmware writes its log there, a byte at a time.

use std::io::{self, Write};

/// The port.
pub(crate) const PORT: u16 = 0x402;

/// What a read returns, by which firmware knows that something listens.
const PRESENT: u8 = 0xe9;

/// The log, handed on line by line.
#[derive(Debug)]
pub(crate) struct DebugPort<W> {
    out: W,
    line: Vec<u8>,
}

/// A line longer than this goes out in parts, so that a guest that ends none costs no memory.
const LONGEST: usize = 1024;

impl<W: Write> DebugPort<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, line: Vec::new() }
    }

    pub(crate) fn read(&self) -> u8 {
        PRESENT
    }

    /// # Errors
    /// That of the writer.
    pub(crate) fn write(&mut self, byte: u8) -> io::Result<()> {
        if byte != b'\n' {
            self.line.push(byte);
            if self.line.len() < LONGEST {
                return Ok(());
            }
        }
        self.line.push(b'\n');
        let written = self.out.write_all(&self.line);
        self.line.clear();
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> Vec<u8> {
        let mut port = DebugPort::new(Vec::new());
        for byte in bytes {
            port.write(*byte).unwrap();
        }
        port.out
    }

    #[test]
    fn it_says_that_something_listens() {
        assert_eq!(DebugPort::new(io::sink()).read(), 0xe9);
    }

    #[test]
    fn what_is_written_comes_out_in_whole_lines() {
        assert_eq!(written(b"SeaBIOS"), b"");
        assert_eq!(written(b"one\n\ntwo\nthr"), b"one\n\ntwo\n");
    }

    #[test]
    fn a_line_without_an_end_is_cut() {
        assert_eq!(written(&[b'x'; 2500]), [[b'x'; 1024].as_slice(), b"\n", &[b'x'; 1024], b"\n"].concat());
    }
}
