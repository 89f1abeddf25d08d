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
    a_mount_that_the_jail_would_hide_or_that_hides_its_own_is_refused
    files_that_never_end_are_refused
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
    for place in ["/usr/lib", "/etc/ld.so.cache", "/etc/ld.so.cache/x"] {
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
            run("65534").assert_success();
            let twice = ["-q", "--plugin-user", "65534", "--plugin-gid-map", "65534"];
            let ended = host.run(&twice, "probe", &[]).run();
            ended.assert_failure(&["the group map", "65534", "may not be mapped twice"]);
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

fn a_mount_that_the_jail_would_hide_or_that_hides_its_own_is_refused(host: &Host) {
    for place in ["/proc", "/proc/self", "/dev", "/dev/null", "/dev/urandom"] {
        let mount = format!("{}:{place}", host.text("given"));
        let ended = host.run(&["--plugin-mount", &mount], "probe", &[]).run();
        ended.assert_failure(&["a mount point", place, "the jail has something of its own there"]);
    }
    let [first, second] = ["/x/y", "/x"].map(|place| format!("{}:{place}", host.text("given")));
    let run = |one: &str, other: &str| host.run(&["--plugin-mount", one, "--plugin-mount", other], "probe", &[]).run();
    run(&first, &second).assert_failure(&["a mount point (/x/y)", "another mount hides it"]);
    run(&first, &first).assert_failure(&["a mount point (/x/y)", "another mount hides it"]);
    run(&first, "/dev/null:/dev/net/tun").assert_success();
}

/// Nothing that the command reads is waited for, or read without end.
fn files_that_never_end_are_refused(host: &Host) {
    let pipe = host.path("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    fs::set_permissions(&pipe, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let (long, policies) = (host.path("long"), host.path("policies"));
    fs::File::create(&long).unwrap().set_len(1 << 40).unwrap();
    fs::create_dir(&policies).unwrap();
    fs::set_permissions(&policies, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    for (file, why) in
        [("/dev/zero".into(), "not a regular file"), (pipe, "not a regular file"), (long, "longer than 1 MiB")]
    {
        let file = file.to_str().unwrap();
        for option in ["--plugin-mount-file", "--plugin-gid-map-file"] {
            host.run(&[option, file], "probe", &[]).run().assert_failure(&[file, why]);
        }
        if host.backend == crate::common::Backend::Mock {
            host.run(&["--script", file], "probe", &[]).run().assert_failure(&[file, why]);
        }
        let policy = policies.join("plugin.policy");
        let options = ["--seccomp-policy-dir", policies.to_str().unwrap()];
        std::os::unix::fs::symlink(file, &policy).unwrap();
        host.run(&options, "probe", &[]).run().assert_failure(&["plugin.policy", why]);
        fs::remove_file(&policy).unwrap();
        fs::write(&policy, format!("@include {file}\n")).unwrap();
        host.run(&options, "probe", &[]).run().assert_failure(&["plugin.policy, line 1", file, why]);
        fs::remove_file(&policy).unwrap();
    }
    // A control group's file is opened to be written to.
    let group = host.path("group");
    fs::create_dir(&group).unwrap();
    fs::set_permissions(&group, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let tasks = group.join("cgroup.threads");
    rustix::fs::mknodat(rustix::fs::CWD, &tasks, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    fs::set_permissions(&tasks, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let ended = host.run(&["--vcpu-cgroup-path", group.to_str().unwrap()], "probe", &[]).run();
    ended.assert_failure(&["group", "No such device or address"]);
}
