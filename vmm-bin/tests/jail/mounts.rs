//! Attempts on mounts and namespaces.

use crate::kit::{Host, in_each_setting};

in_each_setting! {
    mounting
    remounting_writable
    unmounting
    the_new_mount_calls
    chroot
    pivot_root
    unshare
    a_user_namespace_within
    clone_into_namespaces
    setns
    the_host_name
}

fn mounting(host: &Host) {
    host.attempt("mount", &[]).held();
}

fn remounting_writable(host: &Host) {
    host.attempt("remount-the-root", &[]).held();
}

fn unmounting(host: &Host) {
    host.attempt("unmount", &[]).held();
}

fn the_new_mount_calls(host: &Host) {
    host.attempt("new-mount-calls", &[]).held();
}

fn chroot(host: &Host) {
    host.attempt("chroot", &[]).held();
}

fn pivot_root(host: &Host) {
    host.attempt("pivot-root", &[]).held();
}

fn unshare(host: &Host) {
    host.attempt("unshare", &[]).held();
}

fn a_user_namespace_within(host: &Host) {
    host.attempt("nested-user-namespace", &[]).held();
}

fn clone_into_namespaces(host: &Host) {
    host.attempt("clone-into-namespaces", &[]).held();
}

fn setns(host: &Host) {
    host.attempt("setns", &[]).held();
}

fn the_host_name(host: &Host) {
    host.attempt("set-host-name", &[]).held();
}
