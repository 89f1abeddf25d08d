//! The saved inputs of the fuzz targets.

use std::fs;
use std::path::Path;

/// Gives each saved input of `target` to its body, by name.
///
/// # Panics
///
/// If there is none, or the body panics; the input's file is then named before.
pub fn each_input(target: &str, body: impl Fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("a directory's entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no input", directory.display());
    for path in paths {
        let input = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let name = Name(&path);
        body(&input);
        drop(name);
    }
}

/// Names the input that a body panics on.
struct Name<'a>(&'a Path);

impl Drop for Name<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}
