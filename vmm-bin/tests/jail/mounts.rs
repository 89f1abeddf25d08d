//! Attempts on mounts and namespaces.

use crate::kit::{Host, User, as_each_user};

as_each_user! {
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

fn mounting(user: User) {
    Host::new(user).attempt("mount", &[]).held();
}

fn remounting_writable(user: User) {
    Host::new(user).attempt("remount-the-root", &[]).held();
}

fn unmounting(user: User) {
    Host::new(user).attempt("unmount", &[]).held();
}

fn the_new_mount_calls(user: User) {
    Host::new(user).attempt("new-mount-calls", &[]).held();
}

fn chroot(user: User) {
    Host::new(user).attempt("chroot", &[]).held();
}

fn pivot_root(user: User) {
    Host::new(user).attempt("pivot-root", &[]).held();
}

fn unshare(user: User) {
    Host::new(user).attempt("unshare", &[]).held();
}

fn a_user_namespace_within(user: User) {
    Host::new(user).attempt("nested-user-namespace", &[]).held();
}

fn clone_into_namespaces(user: User) {
    Host::new(user).attempt("clone-into-namespaces", &[]).held();
}

fn setns(user: User) {
    Host::new(user).attempt("setns", &[]).held();
}

fn the_host_name(user: User) {
    Host::new(user).attempt("set-host-name", &[]).held();
}
