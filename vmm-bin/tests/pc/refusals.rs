//! What the example says when it cannot begin. The guest runs in none of it.

use crate::common::{Backend, Outboard};
use crate::shown::Shown;

/// A run that ends before the start, and says why with all of `parts`.
fn refused(options: &[&str], args: &[&str], parts: &[&str]) {
    let ended = Outboard::plugin(Backend::Mock, options, "pc", args).run();
    ended.assert_logged(parts).assert_no_panic();
    assert_eq!(ended.code, Some(1), "{ended:#?}");
}

/// Firmware of that length.
fn firmware(length: usize) -> Shown {
    Shown::file("bios.bin", &vec![0; length])
}

#[test]
fn a_file_that_is_not_in_the_jail_is_an_error_that_says_how_to_show_it() {
    refused(
        &[],
        &["--bios", "/some/folder/bios.bin"],
        &["cannot open the firmware /some/folder/bios.bin", "--bios", "--plugin-mount /some/folder"],
    );
    let bios = firmware(0x10000);
    refused(
        &["--plugin-mount", bios.folder()],
        &["--bios", bios.path(), "--disk", "/some/folder/disk.img"],
        &["cannot open the disk /some/folder/disk.img", "--disk", "--plugin-mount /some/folder"],
    );
}

#[test]
fn firmware_of_another_size_is_refused() {
    for length in [0, 1000, 0x80000] {
        let bios = firmware(length);
        let expected = format!("bios.bin has {length} bytes");
        refused(&["--plugin-mount", bios.folder()], &["--bios", bios.path()], &[&expected, "64, 128 or 256 KiB"]);
    }
}

#[test]
fn a_disk_of_no_whole_sectors_is_refused() {
    let bios = firmware(0x10000);
    for length in [0, 511, 1025] {
        let disk = Shown::file("disk.img", &vec![0; length]);
        let expected = format!("disk.img has {length} bytes");
        refused(
            &["--plugin-mount", bios.folder(), "--plugin-mount", disk.folder()],
            &["--bios", bios.path(), "--disk", disk.path()],
            &[&expected, "sectors of 512"],
        );
    }
}

#[test]
fn a_second_processor_is_refused() {
    let bios = firmware(0x10000);
    let options = ["--cpus", "2", "--plugin-mount", bios.folder()];
    refused(&options, &["--bios", bios.path()], &["one processor", "--cpus 1"]);
}

#[test]
fn memory_of_an_impossible_size_is_bad_usage() {
    for memory in ["7", "3073", "much"] {
        refused(&[], &["--memory", memory], &["--memory <MIB>", memory]);
    }
}
