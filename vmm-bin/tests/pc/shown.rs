//! A file of a test that a plugin in its jail can be shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

/// A file in a folder of its own, which everybody may read.
pub(crate) struct Shown {
    folder: TempDir,
    path: String,
}

impl Shown {
    pub(crate) fn file(name: &str, content: &[u8]) -> Self {
        let folder = TempDir::new().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        Self { path: path.to_str().unwrap().to_owned(), folder }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn folder(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }
}
