//! How many descriptors the VMM may open, and its plugin.
#![allow(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::process::Command;

/// Without a jail, which has limits of its own, and no way to look at the VMM's.
#[test]
fn the_vmm_takes_as_many_as_it_may_have_and_the_plugin_has_its_own_limit() {
    let outboard = r#"ulimit -Sn 256 && exec "$0" run --hypervisor mock --plugin /bin/sh --disable-sandbox -- -c "$1""#;
    let plugin = "ulimit -Sn; ulimit -Hn; grep '^Max open files' /proc/$PPID/limits";
    let output =
        Command::new("/bin/sh").args(["-c", outboard, env!("CARGO_BIN_EXE_outboard")]).arg(plugin).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let [soft, hard, vmms] = stdout.lines().collect::<Vec<_>>()[..] else { panic!("{stdout}") };
    assert_eq!(soft, "256");
    assert_ne!(hard, "256");
    assert_eq!(vmms.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), [hard, hard]);
}
