//! What a jailed plugin is given.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::Outboard;
use crate::kit::{Host, NOBODY, User, in_each_setting};

in_each_setting! {
    a_plugin_is_the_second_process_and_nobody_special
    a_read_only_mount_can_be_read
    a_writable_mount_can_be_written_to
    mounts_come_from_a_file_too
    a_root_directory_of_ones_own
    standard_input_and_output_are_null_unless_asked_for
    a_plugin_built_by_cc_runs_without_options
    a_shared_library_is_found_by_ld_library_path
    a_plugin_in_a_directory_of_any_depth_runs_without_options
    few_descriptors_are_enough_for_a_plugin_to_start
    what_plugins_call_on_what_they_are_handed_is_allowed
    stopping_the_parent_has_no_effect_and_succeeds
    without_a_jail_it_is_said_once
}

/// What the plugin says of itself, by a C program.
fn inspect(host: &Host, options: &[&str]) -> Vec<String> {
    let ended = host.inspect(options).run();
    ended.assert_success();
    ended.stdout
}

fn a_plugin_is_the_second_process_and_nobody_special(host: &Host) {
    let found = inspect(host, &[]);
    let user = match host.user {
        // One of its own; own_ids.rs says which.
        User::Root => None,
        User::Ordinary if rustix::process::geteuid().is_root() => Some(NOBODY),
        User::Ordinary => Some(rustix::process::geteuid().as_raw()),
    };
    if let Some(user) = user {
        assert!(found.contains(&format!("user {user}")), "{found:#?}");
    }
    for line in ["pid 2", "parent 1", "session 1", "host plugin", "working directory /", "core 1"] {
        assert!(found.iter().any(|found| found == line), "no {line:?}: {found:#?}");
    }
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert!(found.iter().any(|found| *found == format!("{set}:\t0000000000000000")), "{set}: {found:#?}");
    }
    for line in ["NoNewPrivs:\t1", "Seccomp:\t2", "SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
        assert!(found.iter().any(|found| found == line), "no {line:?}: {found:#?}");
    }
}

fn what_plugins_call_on_what_they_are_handed_is_allowed(host: &Host) {
    let plugin = host.compiled("handed", include_str!("handed.c"), &[]);
    for options in [&[][..], &["--plugin-stdio"]] {
        host.run_plugin(&plugin, options, &[]).run().assert_success();
    }
}

fn stopping_the_parent_has_no_effect_and_succeeds(host: &Host) {
    let plugin = host.compiled("stop", include_str!("stop.c"), &[]);
    // A policy of the user's own may say of kill what it likes.
    fs::write(host.path("plugin.policy"), format!("{BUILT_IN}\n")).unwrap();
    for options in [&[][..], &["--seccomp-policy-dir", &host.text("")], &["--seccomp-log"]] {
        // Its end is learned, so its parent lives.
        host.run_plugin(&plugin, options, &[]).run().assert_success();
    }
}

const BUILT_IN: &str = include_str!("../../../plugin-runtime/src/seccomp/plugin.policy");

fn a_read_only_mount_can_be_read(host: &Host) {
    let ended = host.run(
        &["--plugin-mount", &host.text("given")],
        "escape",
        &["write-to-a-read-only-mount", &host.text("given")],
    );
    ended.run().assert_success();
}

fn a_writable_mount_can_be_written_to(host: &Host) {
    let plugin = host.compiled("writer", WRITER, &[]);
    let mount = format!("{}:/data:1", host.text("writable"));
    host.run_plugin(&plugin, &["--plugin-mount", &mount], &["/data/new"]).run().assert_success();
    assert_eq!(fs::read_to_string(host.path("writable/new")).unwrap(), "written");
    // A file alone may be a mount too.
    let mount = format!("{}:/etc/some/file:true", host.text("given/given"));
    host.run_plugin(&plugin, &["--plugin-mount", &mount], &["/etc/some/file"]).run().assert_success();
    assert_eq!(fs::read_to_string(host.path("given/given")).unwrap(), "written");
}

const WRITER: &str = r#"
#include <stdio.h>
int main(int argc, char **argv) {
    FILE *file = fopen(argv[1], "w");
    return !file || fputs("written", file) < 0 || fclose(file);
}
"#;

fn mounts_come_from_a_file_too(host: &Host) {
    let plugin = host.compiled("writer", WRITER, &[]);
    fs::write(host.path("mounts"), format!("# data\n{}:/data:1\n", host.text("writable"))).unwrap();
    host.run_plugin(&plugin, &["--plugin-mount-file", &host.text("mounts")], &["/data/new"]).run().assert_success();
    assert!(host.path("writable/new").exists());
}

/// A statically linked plugin needs nothing but itself there.
fn a_root_directory_of_ones_own(host: &Host) {
    for directory in ["root", "root/proc", "root/dev", "root/bin"] {
        fs::create_dir(host.path(directory)).unwrap();
        fs::set_permissions(host.path(directory), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(host.path("root/mark"), "here").unwrap();
    let source = r#"
#include <stdio.h>
int main(void) {
    return !fopen("/mark", "r") || !fopen("/dev/urandom", "r") || !fopen("/proc/self/status", "r")
        || fopen("/mark", "w") || fopen("/new", "w") || fopen("/usr/lib/os-release", "r") || fopen("/dev/new", "w");
}
"#;
    let plugin = host.compiled("static", source, &["-static"]);
    fs::copy(plugin, host.path("root/bin/plugin")).unwrap();
    let root = host.text("root");
    host.run_plugin(Path::new("/bin/plugin"), &["--plugin-root", &root], &[]).run().assert_success();
    let ended = host.run_plugin(Path::new("/bin/other"), &["--plugin-root", &root], &[]).run();
    ended.assert_failure(&["starting plugin /bin/other", "No such file"]);
    fs::remove_dir(host.path("root/proc")).unwrap();
    let ended = host.run_plugin(Path::new("/bin/plugin"), &["--plugin-root", &root], &[]).run();
    ended.assert_failure(&["a mount point", "/proc", "must be there already"]);
}

fn standard_input_and_output_are_null_unless_asked_for(host: &Host) {
    let ended = host.run(&[], "probe", &["print=heard"]).run();
    ended.assert_success();
    assert_eq!(ended.stdout, [""; 0]);
    let ended = host.run(&["--plugin-stdio"], "probe", &["print=heard"]).run();
    assert_eq!(ended.stdout, ["heard"]);
}

fn a_plugin_built_by_cc_runs_without_options(host: &Host) {
    let plugin = host.compiled(
        "plugin",
        "#include <math.h>\nint main(int n, char **v) { return cos(n - 1) != 1; }",
        &["-lm", "-lpthread"],
    );
    host.run_plugin(&plugin, &[], &[]).run().assert_success();
}

fn a_shared_library_is_found_by_ld_library_path(host: &Host) {
    fs::create_dir(host.path("lib")).unwrap();
    host.compiled("lib/libsome.so", "int some(void) { return 0; }", &["-shared", "-fPIC"]);
    let library = host.text("lib");
    let rpath = format!("-Wl,-rpath,{library}");
    let options = ["-L", &library, "-lsome", &rpath];
    let plugin = host.compiled("plugin", "int some(void); int main(void) { return some(); }", &options);
    host.run_plugin(&plugin, &[], &[]).env("LD_LIBRARY_PATH", &library).run().assert_success();
    // The way to the directory is not in the jail, only the directory.
    fs::create_dir(host.path("beside")).unwrap();
    std::os::unix::fs::symlink(&library, host.path("beside/link")).unwrap();
    for way in ["beside/../lib", "beside/link"].map(|way| host.text(way)) {
        host.run_plugin(&plugin, &[], &[]).env("LD_LIBRARY_PATH", &way).run().assert_success();
    }
    // What the plugin itself says about directories counts for nothing.
    let ended = host.run_plugin(&plugin, &[], &[]).run();
    ended.assert_failure(&["code 127"]);
    let options = ["--plugin-mount", &*library];
    host.run_plugin(&plugin, &options, &[]).run().assert_success();
}

fn a_plugin_in_a_directory_of_any_depth_runs_without_options(host: &Host) {
    fs::create_dir_all(host.path("a b/c/d/e")).unwrap();
    let plugin = host.compiled("a b/c/d/e/plugin", "int main(void) { return 0; }", &[]);
    host.run_plugin(&plugin, &[], &[]).run().assert_success();
    // The link is followed; what is there is what runs.
    std::os::unix::fs::symlink(&plugin, host.path("link")).unwrap();
    host.run_plugin(&host.path("link"), &[], &[]).run().assert_success();
}

fn few_descriptors_are_enough_for_a_plugin_to_start(host: &Host) {
    host.run(&["--plugin-max-descriptors", "64"], "escape", &["exhaust-descriptors"]).run().assert_success();
}

fn without_a_jail_it_is_said_once(host: &Host) {
    let ended: Outboard = host.run(&["--disable-sandbox"], "probe", &["exit=3"]);
    let ended = ended.run();
    ended.assert_failure(&["code 3"]);
    assert_eq!(ended.logged(&["WARN", "without a jail"]), 1, "{ended:#?}");
}
