//! Debian's kernel for clouds, as its package has it, with its busybox: `.ci/linux` fetches them.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use test_utils::kvm::skipped;

use crate::common::{Backend, Ended, Outboard};

/// Between two lines of half a billion instructions, on a loaded machine.
const BOOT: Duration = Duration::from_secs(300);

/// Nothing that is needed to boot: it saves two thirds of the instructions.
const QUICK: &str = "console=ttyS0 nokaslr mitigations=off cryptomgr.notests initcall_blacklist=load_system_certificate_list,x509_key_init";

/// Names the folder with what `.ci/linux` has fetched. That script also builds the interpreter with optimisation: without, a boot
/// is minutes.
const FOLDER: &str = "OUTBOARD_LINUX";

/// Boots the kernel to its end, on the mock. `None` after the test was told of as skipped where it is not there.
fn boot(test: &str, options: &[&str], append: &str, args: &[&str]) -> Option<Ended> {
    let folder = match env::var(FOLDER) {
        Ok(folder) => PathBuf::from(folder),
        Err(error) => {
            skipped(&format!("(run it by .ci/linux) {test}"), &error);
            return None;
        }
    };
    let [kernel, initrd] = ["vmlinuz", "initrd.cpio"].map(|name| folder.join(name).to_str().unwrap().to_owned());
    let append = format!("{QUICK} {append}");
    let mut all_args = vec!["--kernel", &kernel, "--initrd", &initrd, "--append", &append];
    all_args.extend(args);
    let mut all_options = vec!["--plugin-mount", folder.to_str().unwrap()];
    all_options.extend(options);
    let mut running = Outboard::plugin(Backend::Mock, &all_options, "pc", all_args).start();
    running.await_line_within("init: done\r", BOOT);
    let ended = running.end();
    ended.assert_success();
    Some(ended)
}

/// `seq 1 1000 | md5sum`.
const SUM: &str = "init: 53d025127ae99ab79e8502aae2d9bea6  -";

fn assert_printed(ended: &Ended, line: &str) {
    assert!(ended.stdout.iter().any(|printed| printed.trim_end() == line), "{line}: {ended:#?}");
}

/// What the plugin has said of the guest's end.
fn end_of(ended: &Ended) -> &str {
    ended.stderr.iter().find(|line| line.contains("the guest has")).map_or("", String::as_str)
}

#[test]
fn linux_boots_on_two_processors_and_switches_off() {
    let test = "linux_boots_on_two_processors_and_switches_off";
    let Some(ended) = boot(test, &["--cpus", "2"], "", &[]) else { return };
    assert_printed(&ended, "init: Linux on 2 processors");
    assert_printed(&ended, SUM);
    assert!(end_of(&ended).contains("the guest has switched the PC off"), "{ended:#?}");
}

#[test]
fn linux_that_resets_the_pc_ends_with_the_same_clock_twice() {
    let test = "linux_that_resets_the_pc_ends_with_the_same_clock_twice";
    let run = || boot(test, &["--mock-clock", "virtual"], "outboard.reset", &["--deterministic"]);
    let (Some(first), Some(second)) = (run(), run()) else { return };
    assert_printed(&first, SUM);
    assert!(end_of(&first).contains("the guest has reset the PC after "), "{first:#?}");
    assert_eq!(end_of(&first), end_of(&second));
    assert_eq!(first.stdout, second.stdout);
}
