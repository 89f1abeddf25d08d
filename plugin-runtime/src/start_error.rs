//! Why a plugin's executable could not be started, and what to do.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::process::as_path;

/// What the operating system says of `path`, with what to do where that can be seen.
pub(crate) fn start_error(path: &Path, source: io::Error) -> Error {
    let remedy = remedy(path, &source, env::var_os("PATH").as_deref());
    let source = match remedy {
        Some(remedy) => io::Error::new(source.kind(), format!("{source}; {remedy}")),
        None => source,
    };
    Error::Start { path: path.to_owned(), source }
}

fn remedy(path: &Path, source: &io::Error, search: Option<&std::ffi::OsStr>) -> Option<String> {
    let file = as_path(path);
    if file.is_dir() {
        return Some("it is a directory: name the executable in it".into());
    }
    match source.kind() {
        io::ErrorKind::NotFound if file.exists() => {
            Some("the file is there, but the interpreter or dynamic loader that it names is not".into())
        }
        io::ErrorKind::NotFound if has_no_slash(path) => {
            let name = path.display();
            let found = search.and_then(|search| find_in(search, path));
            let instead = found.map_or_else(|| format!("./{name}"), |found| found.display().to_string());
            Some(format!(
                "a name without a slash is a file in the working directory, not a command in PATH: name the file, as {instead}"
            ))
        }
        io::ErrorKind::PermissionDenied if file.is_file() => {
            Some(format!("the VMM's user must be allowed to execute it (chmod +x {})", file.display()))
        }
        _ if source.raw_os_error() == Some(libc::ENOEXEC) => {
            Some("it is no program for this machine; a script begins with #! and its interpreter".into())
        }
        _ => None,
    }
}

fn has_no_slash(path: &Path) -> bool {
    path.parent() == Some(Path::new(""))
}

fn find_in(search: &std::ffi::OsStr, name: &Path) -> Option<PathBuf> {
    env::split_paths(search).map(|directory| directory.join(name)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &Path, errno: i32) -> String {
        start_error(path, io::Error::from_raw_os_error(errno)).to_string()
    }

    #[test]
    fn a_name_without_a_slash_names_the_command_in_path() {
        let name = Path::new("no-such-plugin");
        let error = io::Error::from_raw_os_error(libc::ENOENT);
        let folder = tempfile::tempdir().unwrap();
        let missing = remedy(name, &error, Some(folder.path().as_os_str())).unwrap();
        assert!(missing.ends_with("name the file, as ./no-such-plugin"), "{missing}");
        std::fs::write(folder.path().join(name), "").unwrap();
        let there = remedy(name, &error, Some(folder.path().as_os_str())).unwrap();
        assert!(there.ends_with(&format!("as {}", folder.path().join(name).display())), "{there}");
        assert_eq!(remedy(Path::new("/nonexistent/plugin"), &error, None), None);
    }

    #[test]
    fn what_cannot_be_executed_gets_a_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plugin");
        std::fs::write(&file, "").unwrap();
        let directory = said(folder.path(), libc::EACCES);
        assert!(directory.contains("Permission denied") && directory.contains("it is a directory"), "{directory}");
        assert!(said(&file, libc::EACCES).contains("chmod +x"), "{}", said(&file, libc::EACCES));
        assert!(said(&file, libc::ENOENT).contains("interpreter or dynamic loader"));
        assert!(said(&file, libc::ENOEXEC).contains("#!"));
    }
}
