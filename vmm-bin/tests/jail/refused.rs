//! Where a part of the jail cannot be made, the run fails with one line that says which, why, and what to do.

use std::fs;

use crate::kit::{Host, User, in_each_setting};

in_each_setting! {
    a_mount_that_is_not_there_is_named
    a_mount_onto_the_wrong_kind_is_named
    a_group_that_may_not_be_mapped_is_named
    a_user_that_the_plugin_may_not_be_is_named
    namespaces_that_the_host_forbids_are_named
    an_executable_that_is_not_there_or_not_executable_is_named
    bad_options_are_named
}

fn a_mount_that_is_not_there_is_named(host: &Host) {
    let ended = host.run(&["--plugin-mount", "/nonexistent/x"], "probe", &[]).run();
    ended.assert_failure(&[
        "the jail of plugin probe: what is to be mounted (/nonexistent/x)",
        "No such file",
        "make it",
    ]);
}

fn a_mount_onto_the_wrong_kind_is_named(host: &Host) {
    for place in ["/usr/lib", "/dev/null", "/dev/null/x"] {
        let mount = format!("{}:{place}", if place == "/usr/lib" { host.text("secret") } else { host.text("given") });
        let ended = host.run(&["--plugin-mount", &mount], "probe", &[]).run();
        ended.assert_failure(&["a mount point", place]);
    }
    let mount = format!("{}:/usr/lib/not-there", host.text("given"));
    host.run(&["--plugin-mount", &mount], "probe", &[]).run().assert_failure(&["must be there already"]);
}

fn a_group_that_may_not_be_mapped_is_named(host: &Host) {
    let run = |map: &str| host.run(&["-q", "--plugin-gid-map", map], "probe", &[]).run();
    match host.user {
        User::Root => {
            run("5").assert_success();
            run("100:7:3").assert_success();
            run("65534").assert_failure(&["the group map", "65534", "may not be mapped twice"]);
            run("0:0:1000").assert_failure(&["the group map", "1000 groups"]);
            fs::write(host.path("maps"), "5\n# six\n6:7\n").unwrap();
            host.run(&["--plugin-gid-map-file", &host.text("maps")], "probe", &[]).run().assert_success();
        }
        User::Ordinary => {
            run("5").assert_failure(&["the group map", "5 5 1", "only root"]);
        }
    }
}

fn a_user_that_the_plugin_may_not_be_is_named(host: &Host) {
    let ended = host.run(&["-q", "--plugin-user", "1234"], "probe", &[]).run();
    match host.user {
        User::Root => ended.assert_success(),
        User::Ordinary => ended.assert_failure(&["the plugin's user (1234)", "only root"]),
    };
}

/// The VMM starts in a user namespace in which no other may be made.
fn namespaces_that_the_host_forbids_are_named(host: &Host) {
    let run = host.run(&["-q"], "probe", &[]).where_no_namespace_can_be_made().run();
    run.assert_failure(&["the jail of plugin probe: user, mount, PID", "No space left", "max_user_namespaces"]);
}

fn an_executable_that_is_not_there_or_not_executable_is_named(host: &Host) {
    let ended = host.run_plugin("/nonexistent/plugin".as_ref(), &[], &[]).run();
    ended.assert_failure(&["starting plugin /nonexistent/plugin", "No such file"]);
    let ended = host.run_plugin(&host.path("secret"), &[], &[]).run();
    ended.assert_failure(&["starting plugin", "secret", "Permission denied"]);
    let ended = host.run_plugin(&host.path(""), &[], &[]).run();
    ended.assert_failure(&["starting plugin", "Permission denied"]);
}

fn bad_options_are_named(host: &Host) {
    for (options, part) in [
        (["--plugin-mount", "/a:b"], "no place in the jail"),
        (["--plugin-mount", "/a:/b:maybe"], "WRITABLE"),
        (["--plugin-gid-map", "x"], "not a number"),
        (["--plugin-user", "root"], "not a number"),
        (["--plugin-max-descriptors", "1"], "16"),
    ] {
        let ended = host.run(&options, "probe", &[]).run();
        assert_eq!(ended.code, Some(2), "{ended:#?}");
        assert!(ended.stderr.join("\n").contains(part), "{ended:#?}");
    }
    fs::write(host.path("mounts"), "/a\n/b:c\n").unwrap();
    let ended = host.run(&["--plugin-mount-file", &host.text("mounts")], "probe", &[]).run();
    ended.assert_failure(&["mounts, line 2"]);
}
