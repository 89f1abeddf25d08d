//! Programs that run VMs by this crate: two VMs at once, and a `main` that forgets the helper.
#![allow(clippy::unwrap_used, reason = "the helpers of tests fail like tests")]

use std::path::PathBuf;
use std::process::Command;

use test_utils::kvm::kvm_or_skip;

/// A program that is built with these tests.
fn program(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let path = this.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is not there: build with --examples", path.display());
    path
}

#[test]
fn two_vms_run_side_by_side_in_one_process() {
    let ran = Command::new(program("two_vms")).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{ran:?}");
    assert!(said.contains("the VM on mock has ended well"), "{ran:?}");
    if kvm_or_skip("embedding::two_vms_run_side_by_side_in_one_process, the half for KVM").is_some() {
        assert!(said.contains("the VM on kvm has ended well"), "{ran:?}");
    }
}

/// What the program that has forgotten the helper says, a line for each of the two times that it tries, and how often it was
/// started in all.
fn forgetful(silent: bool) -> (Vec<String>, usize) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut command = Command::new(program("forgetful"));
    command.env("FORGETFUL_LOG", &log);
    if silent {
        command.env("FORGETFUL_SILENT", "");
    }
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let said = String::from_utf8(ran.stdout).unwrap();
    (said.lines().map(str::to_owned).collect(), std::fs::read_to_string(log).unwrap().lines().count())
}

#[test]
fn a_main_without_the_helper_fails_and_is_no_fork_bomb() {
    for silent in [false, true] {
        let (said, starts) = forgetful(silent);
        // The program, and a helper for each time.
        assert_eq!((said.len(), starts), (2, 3), "{said:?}");
        for line in said {
            assert!(line.contains("`main` must call plugin_runtime::jail::helper_main()"), "{line}");
        }
    }
}
