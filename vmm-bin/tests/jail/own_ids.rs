//! Each process of root's plugins has a user of its own, so that what the kernel counts by user is counted for it alone.

use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::ptr::null;

use rustix::process::Pid;

use crate::common::{Backend, Outboard, Running, only_child};
use crate::kit::{Host, NOBODY, User, in_each_setting};

in_each_setting! {
    two_plugins_of_roots_have_two_users
    files_in_a_mount_belong_to_the_plugin_again_in_its_next_life
    without_id_mapped_mounts_files_belong_to_the_id_of_this_time
    an_id_is_another_plugins_once_its_vm_has_ended
    an_ordinary_users_plugin_may_have_a_subordinate_id
    without_a_place_for_its_lock_root_is_warned_once
    one_that_exhausts_what_is_counted_is_not_noticed_by_another
}

/// The default range, as --help has it.
const RANGE: std::ops::Range<u32> = 2_130_706_432..2_130_771_968;

fn started(host: &Host, options: &[&str]) -> Running {
    let options: Vec<_> = ["--plugin-stdio"].iter().chain(options).copied().collect();
    let mut running = host.run(&options, "probe", &["print=ready", "hang"]).start();
    running.await_line("ready");
    running
}

/// User and group of a process, outside its namespaces.
fn ids(pid: Pid) -> [u32; 2] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    ["Uid:", "Gid:"].map(|name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        let ids: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{status}");
        ids[0]
    })
}

fn ids_of_plugin(running: &Running) -> [u32; 2] {
    let init = running.await_plugin();
    let plugin = ids(only_child(init));
    assert_eq!(ids(init), plugin);
    plugin
}

fn two_plugins_of_roots_have_two_users(host: &Host) {
    let (first, second) = (started(host, &[]), started(host, &[]));
    let users = [&first, &second].map(ids_of_plugin);
    if host.user == User::Root {
        assert_ne!(users[0], users[1]);
        assert!(users.iter().flatten().all(|id| RANGE.contains(id)), "{users:?}");
        assert_eq!(users.map(|[user, group]| user == group), [true; 2]);
    } else {
        assert_eq!(users[0], users[1]);
    }
    first.kill();
    second.kill();
}

fn an_id_is_another_plugins_once_its_vm_has_ended(host: &Host) {
    // Not another test's, here or in another process.
    let backend = u32::from(host.backend == Backend::Kvm);
    let range = format!("{}:1", 2_000_000_000 + 2 * std::process::id() + backend);
    let options = ["--plugin-id-range", &range];
    let attempt = || host.run(&options, "probe", &[]).run();
    if host.user == User::Ordinary {
        // Whose own are subordinate ids.
        return;
    }
    attempt().assert_success();
    let first = started(host, &options);
    assert_eq!(format!("{}:1", ids_of_plugin(&first)[0]), range);
    attempt().assert_failure(&["the plugin's user (/run/outboard/ids)", "busy", "other plugins have all ids"]);
    first.kill();
    attempt().assert_success();
}

fn files_in_a_mount_belong_to_the_plugin_again_in_its_next_life(host: &Host) {
    let plugin = host.compiled("keeper", KEEPER, &[]);
    let mount = format!("{}:/data:1", host.text("writable"));
    let run = || host.run_plugin(&plugin, &["--plugin-mount", &mount], &["/data/kept"]).run();
    run().assert_success();
    let owner = || {
        let metadata = fs::metadata(host.path("writable/kept")).unwrap();
        (metadata.uid(), metadata.gid())
    };
    if RANGE.contains(&owner().0) {
        let name = "own_ids::files_in_a_mount_belong_to_the_plugin_again_in_its_next_life";
        test_utils::kvm::skipped(name, &"this file system has no id-mapped mounts");
        return;
    }
    let expected = if rustix::process::geteuid().is_root() { NOBODY } else { rustix::process::geteuid().as_raw() };
    assert_eq!(owner().0, expected);
    run().assert_success();
    run().assert_success();
    assert_eq!(fs::read_to_string(host.path("writable/kept")).unwrap(), "xxx");
    // What is another's is still another's.
    fs::write(host.path("writable/roots"), "").unwrap();
    fs::set_permissions(host.path("writable/roots"), fs::Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        let ended = host.run_plugin(&plugin, &["--plugin-mount", &mount], &["/data/roots"]).run();
        ended.assert_failure(&["exited with code 1"]);
    }
}

/// As of a service with few capabilities: the kernel lets it map no files of root's.
fn without_id_mapped_mounts_files_belong_to_the_id_of_this_time(host: &Host) {
    const CAP_SETFCAP: u64 = 31;
    if host.user == User::Ordinary {
        return;
    }
    let plugin = host.compiled("keeper", KEEPER, &[]);
    let mount = format!("{}:/data:1", host.text("writable"));
    let outboard = host.run_plugin(&plugin, &["--plugin-mount", &mount], &["/data/kept"]).before(|| {
        // SAFETY: plain numbers.
        #[allow(unsafe_code, reason = "rustix has it for threads alone")]
        match unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SETFCAP, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    });
    outboard.run().assert_success();
    let owner = fs::metadata(host.path("writable/kept")).unwrap().uid();
    assert!(RANGE.contains(&owner), "{owner}");
}

const KEEPER: &str = r#"
#include <fcntl.h>
#include <unistd.h>
int main(int argc, char **argv) {
    int file = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    return file < 0 || write(file, argv[0], 0) || write(file, "x", 1) != 1;
}
"#;

/// Stands for the program of shadow, without a look into `/etc/subuid`: made root's, it writes the map that it is told to.
const MAPPER: &str = r#"
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/%s", argv[1], strstr(argv[0], "newuidmap") ? "uid_map" : "gid_map");
    FILE *map = fopen(path, "w");
    return !map || fprintf(map, "%s %s %s\n", argv[2], argv[3], argv[4]) < 0 || fclose(map);
}
"#;

fn an_ordinary_users_plugin_may_have_a_subordinate_id(host: &Host) {
    if host.user == User::Root || !rustix::process::geteuid().is_root() {
        // Only root can make a program that maps the ids of others.
        return;
    }
    let backend = u32::from(host.backend == Backend::Kvm);
    let range = format!("{}:2", 1_900_000_000 + 4 * std::process::id() + 2 * backend);
    let options = ["--plugin-id-range", &range];
    fs::create_dir(host.path("bin")).unwrap();
    let (bin, run) = (host.text("bin"), host.text("run"));
    let set_up = |outboard: Outboard| outboard.env("PATH", &bin).env("XDG_RUNTIME_DIR", &run);

    let without = host.run(&options, "probe", &[]).without_variable("XDG_RUNTIME_DIR").run();
    without.assert_failure(&["the plugin's user (XDG_RUNTIME_DIR)"]);
    fs::create_dir(host.path("run")).unwrap();
    std::os::unix::fs::chown(host.path("run"), Some(NOBODY), Some(NOBODY)).unwrap();
    let missing = set_up(host.run(&options, "probe", &[])).run();
    missing.assert_failure(&["the user map (newuidmap", "uidmap"]);
    for name in ["newuidmap", "newgidmap"] {
        let program = host.compiled(&format!("bin/{name}"), MAPPER, &[]);
        fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let refused = set_up(host.run(&options, "probe", &[])).run();
    refused.assert_failure(&["the user map (newuidmap", "/etc/subuid"]);
    for name in ["newuidmap", "newgidmap"] {
        fs::set_permissions(host.path(&format!("bin/{name}")), fs::Permissions::from_mode(0o4755)).unwrap();
    }

    let started = || {
        let options = ["--plugin-stdio", options[0], options[1]];
        let mut running = set_up(host.run(&options, "probe", &["print=ready", "hang"])).start();
        running.await_line("ready");
        running
    };
    let (first, second) = (started(), started());
    let mut users = [&first, &second].map(|running| ids_of_plugin(running)[0]);
    users.sort_unstable();
    assert_eq!((format!("{}:2", users[0]), users[1]), (range.clone(), users[0] + 1));
    let third = set_up(host.run(&options, "probe", &[])).run();
    third.assert_failure(&["the plugin's user", "other plugins have all ids"]);
    let hoarder_ended = second.kill();
    assert!(hoarder_ended.is_empty());
    let inspected = set_up(host.inspect(&options)).run();
    inspected.assert_success();
    assert!(inspected.stdout.iter().any(|line| line.trim_end() == "Groups:"), "{inspected:#?}");
    first.kill();
}

/// `/run` is a file system that nothing can be written to.
fn without_a_place_for_its_lock_root_is_warned_once(host: &Host) {
    if host.user == User::Ordinary {
        return;
    }
    let with_a_sealed_run = |outboard: Outboard| outboard.before(seal_run);
    let ended = with_a_sealed_run(host.inspect(&[])).run();
    ended.assert_success();
    assert_eq!(ended.logged(&["WARN", "shares user 65534", "Read-only"]), 1, "{ended:#?}");
    assert!(ended.stdout.contains(&format!("user {NOBODY}")), "{ended:#?}");
    let asked_for = host.inspect(&["--plugin-id-range", "2000000000:10"]);
    with_a_sealed_run(asked_for).run().assert_failure(&["the plugin's user (/run/outboard/ids)", "Read-only"]);
    let named = with_a_sealed_run(host.inspect(&["--plugin-user", "1234"])).run();
    assert_eq!(named.logged(&["WARN"]), 0, "{named:#?}");
}

fn seal_run() -> std::io::Result<()> {
    let mount = |kind: &CStr, target: &CStr, flags| {
        // SAFETY: strings that end with 0, and a null pointer for no data.
        #[allow(unsafe_code, reason = "rustix allocates for it")]
        match unsafe { libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, null()) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: a mount namespace shares nothing of Rust's.
    #[allow(unsafe_code, reason = "as above")]
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)?;
    }
    mount(c"none", c"/", libc::MS_REC | libc::MS_PRIVATE)?;
    mount(c"tmpfs", c"/run", libc::MS_RDONLY)
}

/// What is counted for a user. A system call filter that lets everything through lets it have keys too.
const COUNTS: [&str; 6] =
    ["descriptors-in-flight", "epoll-watches", "pipe-pages", "keys", "locked-memory", "pending-signals"];

fn one_that_exhausts_what_is_counted_is_not_noticed_by_another(host: &Host) {
    if host.user == User::Ordinary {
        // Both are the VMM's user: docs/security.md lists what that means.
        return;
    }
    for count in COUNTS {
        let mut hoarder = host.run(&["--plugin-stdio", "--seccomp-log"], "escape", &["hoard", count]).start();
        hoarder.await_line("hoarded");
        let ended = host.run(&["--seccomp-log"], "escape", &["need", count]).run();
        ended.assert_success();
        // Nor does a VM that starts then, with all that the protocol hands over.
        let ended = host.run(&[], "probe", &["connect", "reserve", "event", "vcpus", "exit=0"]).run();
        ended.assert_success();
        hoarder.kill();
    }
}
