//! The manual pages and completions in `dist/` are those of this command line.

#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::Outboard;
use tempfile::TempDir;

/// What is in the files of a directory, by name.
fn files(directory: &Path) -> BTreeMap<String, String> {
    fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read_to_string(path).unwrap())
        })
        .collect()
}

#[test]
fn the_manual_pages_and_completions_in_dist_are_up_to_date() {
    let fresh = TempDir::new().unwrap();
    let (man, completions) = (fresh.path().join("man"), fresh.path().join("completions"));
    let args =
        ["generate".as_ref(), "--man".as_ref(), man.as_os_str(), "--completions".as_ref(), completions.as_os_str()];
    Outboard::new(args).run().assert_success();
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist");
    for kind in ["man", "completions"] {
        assert!(
            files(&dist.join(kind)) == files(&fresh.path().join(kind)),
            "dist/{kind} is old; renew it: cargo run -- generate --man dist/man --completions dist/completions"
        );
    }
}

#[test]
fn they_leave_out_what_is_hidden() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist");
    let all = [files(&dist.join("man")), files(&dist.join("completions"))];
    for (name, text) in all.iter().flatten() {
        for hidden in ["demo-plugin", "bench-plugin", "soak-plugin", "demo\\-plugin", "soak\\-plugin", "generate"] {
            assert!(!text.contains(hidden) && !name.contains(hidden), "{hidden} is in {name}");
        }
    }
}
