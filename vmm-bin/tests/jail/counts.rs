//! Attempts on what the kernel counts for a user or for the whole host, and on the host's files beyond reading them.

use crate::kit::{Host, in_each_setting};

in_each_setting! {
    watching_files
    sessions_that_multiply_its_share_of_the_processors
    locks_on_host_files
    syncing_host_files
    timers
    filters_of_sockets
    locked_memory
    message_queues
    the_hosts_file_table
    pages_shared_with_other_processes
    pages_of_the_vmms_pipes
    files_of_a_writable_mount_are_locked_and_synced
}

fn watching_files(host: &Host) {
    host.attempt("watch-files", &[]).held();
}

fn sessions_that_multiply_its_share_of_the_processors(host: &Host) {
    host.attempt("make-a-session", &[]).held_by_the_filter();
}

fn locks_on_host_files(host: &Host) {
    host.attempt("lock-host-files", &[]).held_by_the_filter();
}

fn syncing_host_files(host: &Host) {
    host.attempt("sync-host-files", &[]).held_by_the_filter();
}

fn timers(host: &Host) {
    host.attempt("make-timers", &[]).held();
}

fn filters_of_sockets(host: &Host) {
    host.attempt("attach-socket-filters", &[]).held_by_the_filter();
}

fn locked_memory(host: &Host) {
    host.attempt("lock-memory", &[]).held();
}

fn message_queues(host: &Host) {
    host.attempt("make-message-queues", &[]).held();
}

fn pages_shared_with_other_processes(host: &Host) {
    host.attempt("share-equal-pages", &[]).held_by_the_filter();
}

fn pages_of_the_vmms_pipes(host: &Host) {
    host.attempt("enlarge-the-vmms-pipe", &[]).held_by_the_filter();
}

/// Processes times descriptors.
fn the_hosts_file_table(host: &Host) {
    let options = ["--plugin-max-processes", "10", "--plugin-max-descriptors", "50"];
    host.attempt("fill-the-file-table", &["500"]).with(&options).held();
    let found = host.inspect(&[]).run();
    let value = |name: &str| -> u64 {
        let line = found.stdout.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}: {found:#?}")).parse().unwrap()
    };
    let files = value("processes") * value("descriptors");
    assert!((8192..=264_192).contains(&files), "{files}");
}

/// A data base in a mount needs both.
fn files_of_a_writable_mount_are_locked_and_synced(host: &Host) {
    let plugin = host.compiled("locker", LOCKER, &[]);
    let mount = format!("{}:/data:1", host.text("writable"));
    host.run_plugin(&plugin, &["--plugin-mount", &mount], &["/data/base"]).run().assert_success();
}

const LOCKER: &str = r"
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int file = open(argv[1], O_RDWR | O_CREAT, 0600);
    return file < 0 || flock(file, LOCK_EX) || fcntl(file, F_SETLKW, &lock) || write(file, argv[1], 1) != 1
        || fsync(file) || fdatasync(file);
}
";
