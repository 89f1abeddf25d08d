//! Attempts on files that were not given.

use std::fs::{self, File};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, sendmsg, socketpair,
};

use crate::kit::{Host, in_each_setting};

in_each_setting! {
    host_files_by_path
    climbing_above_the_root
    a_host_file_by_an_inherited_descriptor
    a_directory_received_by_scm_rights
    writing_to_the_root
    writing_ones_own_binary
    writing_to_a_read_only_mount
    a_symlink_out_of_a_writable_mount
    a_mount_point_behind_a_symlink
    a_hard_link_to_a_system_file
    executing_from_a_writable_mount
    dev_kvm_and_other_devices
    making_a_device
    opening_by_handle
    proc_of_the_host
    giving_a_file_to_root
}

fn host_files_by_path(host: &Host) {
    host.attempt("read-host-files", &[&host.text("secret"), &host.text("given/given")]).held();
}

fn climbing_above_the_root(host: &Host) {
    host.attempt("climb-above-the-root", &[&host.text("secret")]).held();
}

fn a_host_file_by_an_inherited_descriptor(host: &Host) {
    // As a careless parent of the VMM's could have left it.
    let secret = File::open(host.path("secret")).unwrap();
    fcntl_setfd(&secret, FdFlags::empty()).unwrap();
    host.attempt("use-inherited-descriptors", &[]).held();
}

/// A process outside may send it something; a directory would lead back to all that is below it, and above.
fn a_directory_received_by_scm_rights(host: &Host) {
    let directory = host.path("");
    let send = move || -> OwnedFd {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let directory = open(&directory, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let fds = [directory.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(&ours, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        theirs
    };
    host.attempt("use-a-directory-received", &["secret"]).with_stdin(send).held();
}

fn writing_to_the_root(host: &Host) {
    host.attempt("write-to-the-root", &[]).held();
}

fn writing_ones_own_binary(host: &Host) {
    host.attempt("write-own-binary", &[]).held();
}

fn writing_to_a_read_only_mount(host: &Host) {
    let given = host.text("given");
    host.attempt("write-to-a-read-only-mount", &[&given]).with(&["--plugin-mount", &given]).held();
}

fn a_symlink_out_of_a_writable_mount(host: &Host) {
    let mount = format!("{}:/data:1", host.text("writable"));
    let attempt = host.attempt("follow-a-symlink-out-of-a-mount", &["/data", &host.text("secret")]);
    attempt.with(&["--plugin-mount", &mount]).held();
}

/// A plugin's earlier life may have put a link where something is to be mounted in its next.
fn a_mount_point_behind_a_symlink(host: &Host) {
    fs::create_dir(host.path("target")).unwrap();
    std::os::unix::fs::symlink(host.path("target"), host.path("writable/link")).unwrap();
    std::os::unix::fs::symlink("/etc", host.path("writable/up")).unwrap();
    let writable = format!("{}:/data:1", host.text("writable"));
    for place in ["/data/link", "/data/up", "/data/link/below"] {
        let given = format!("{}:{place}", host.text("given"));
        let ended = host.run(&["--plugin-mount", &writable, "--plugin-mount", &given], "probe", &["exit=0"]).run();
        ended.assert_failure(&["a mount point", place, "symbolic link"]);
    }
    assert_eq!(fs::read_dir(host.path("target")).unwrap().count(), 0);
}

fn a_hard_link_to_a_system_file(host: &Host) {
    let mount = format!("{}:/data:1", host.text("writable"));
    host.attempt("link-a-system-file-into-a-mount", &["/data"]).with(&["--plugin-mount", &mount]).held();
}

fn executing_from_a_writable_mount(host: &Host) {
    let mount = format!("{}:/data:1", host.text("writable"));
    host.attempt("execute-from-a-writable-mount", &["/data"]).with(&["--plugin-mount", &mount]).held();
}

fn dev_kvm_and_other_devices(host: &Host) {
    host.attempt("open-devices", &[]).held();
}

fn making_a_device(host: &Host) {
    let mount = format!("{}:/data:1", host.text("writable"));
    host.attempt("make-devices", &["/data"]).with(&["--plugin-mount", &mount]).held();
}

fn opening_by_handle(host: &Host) {
    host.attempt("open-by-handle", &[]).held();
}

fn proc_of_the_host(host: &Host) {
    host.attempt("read-proc-of-the-host", &[]).held();
}

fn giving_a_file_to_root(host: &Host) {
    fs::write(host.path("writable/given"), "x").unwrap();
    let mount = format!("{}:/data:1", host.text("writable"));
    host.attempt("become-the-owner-of-a-file", &["/data"]).with(&["--plugin-mount", &mount]).held();
}
