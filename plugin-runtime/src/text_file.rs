//! Reading the files that a user names: policies, lists, scripts.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::OFlags;

/// The most bytes of a file that a user names.
const LONGEST: u64 = 0x10_0000;

/// Reads a regular file of at most 1 MiB of UTF-8. It never waits: a named pipe, a terminal or a device is no regular file.
///
/// # Errors
///
/// What opening and reading fails with; `InvalidInput` for another kind of file, `FileTooLarge` for a longer one,
/// `InvalidData` for what is no UTF-8.
pub fn read_text(path: &Path) -> io::Result<String> {
    // Opening a named pipe that nobody writes to would wait.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut text = String::new();
    // Files of /proc have a size of 0, and others may grow: what is read is what counts.
    file.take(LONGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(path: &Path) -> io::ErrorKind {
        read_text(path).unwrap_err().kind()
    }

    #[test]
    fn only_a_regular_file_of_at_most_1_mib_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        std::fs::write(path("full"), vec![b'x'; LONGEST as usize]).unwrap();
        assert_eq!(read_text(&path("full")).unwrap().len() as u64, LONGEST);
        std::fs::write(path("more"), vec![b'x'; LONGEST as usize + 1]).unwrap();
        assert_eq!(kind(&path("more")), io::ErrorKind::FileTooLarge);
        std::fs::write(path("sparse"), b"").unwrap();
        File::options().write(true).open(path("sparse")).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(kind(&path("sparse")), io::ErrorKind::FileTooLarge);
        std::fs::write(path("binary"), [0xff]).unwrap();
        assert_eq!(kind(&path("binary")), io::ErrorKind::InvalidData);

        rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
        for other in [&*path("pipe"), "/dev/zero".as_ref(), "/dev/null".as_ref(), "/".as_ref()] {
            assert_eq!(kind(other), io::ErrorKind::InvalidInput, "{}", other.display());
        }
        assert_eq!(kind(&path("nothing")), io::ErrorKind::NotFound);
        assert!(!read_text("/proc/self/status".as_ref()).unwrap().is_empty());
    }
}
