//! What the example says when it cannot begin. None of it needs the guest to run.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use crate::common::{Backend, Outboard};

/// A run that ends before the start, and says why with all of `parts`.
fn refused(options: &[&str], args: &[&str], parts: &[&str]) {
    let ended = Outboard::plugin(Backend::Mock, options, "pc", args).run();
    ended.assert_logged(parts).assert_no_panic();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
}

#[test]
fn firmware_that_is_not_in_the_jail_is_an_error_that_says_how_to_show_it() {
    refused(
        &[],
        &["--bios", "/some/folder/bios.bin"],
        &["cannot read the firmware /some/folder/bios.bin", "--bios", "--plugin-mount /some/folder"],
    );
}

/// A folder with firmware of `length` bytes, for everybody to read.
fn firmware(length: usize) -> TempDir {
    let folder = TempDir::new_in("/tmp").unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(folder.path().join("bios.bin"), vec![0; length]).unwrap();
    folder
}

#[test]
fn firmware_of_another_size_is_refused() {
    let folder = firmware(1000);
    let folder = folder.path().to_str().unwrap();
    let bios = format!("{folder}/bios.bin");
    refused(&["--plugin-mount", folder], &["--bios", &bios], &["bios.bin has 1000 bytes", "64, 128 or 256 KiB"]);
}

#[test]
fn a_second_processor_is_refused() {
    let folder = firmware(0x10000);
    let folder = folder.path().to_str().unwrap();
    let bios = format!("{folder}/bios.bin");
    refused(&["--cpus", "2", "--plugin-mount", folder], &["--bios", &bios], &["one processor", "--cpus 1"]);
}

#[test]
fn memory_of_an_impossible_size_is_bad_usage() {
    for memory in ["7", "3073", "much"] {
        refused(&[], &["--memory", memory], &["--memory <MIB>", memory]);
    }
}
