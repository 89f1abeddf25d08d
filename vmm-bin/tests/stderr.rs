//! What a plugin writes to standard error is logged, and never more than that.

#![allow(clippy::unwrap_used, reason = "what fails here fails its test")]

mod common;

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::process::Stdio;
use std::time::Duration;

use common::{BOOTED, Backend, Outboard, hex, in_parallel, on_each_backend, talker};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Resource;

on_each_backend! {
    the_last_line_of_a_plugin_that_exits_at_once_is_logged
    a_last_line_without_an_end_is_logged
    a_flood_is_cut_and_what_is_missing_is_counted
    a_flood_does_not_keep_the_guest
    bytes_that_could_steer_a_terminal_are_made_harmless
    a_line_is_quoted_and_shows_all_its_characters
    a_plugin_may_write_nothing
    a_vmm_whose_standard_error_takes_nothing_runs_on
}

fn probe(backend: Backend, steps: &str) -> Outboard {
    Outboard::probe(backend, &talker(), steps)
}

fn the_last_line_of_a_plugin_that_exits_at_once_is_logged(backend: Backend) {
    in_parallel(0..200, |run| {
        let line = format!("line-of-run-{run}.");
        let ended = probe(backend, &format!("say={line} exit=0")).run();
        ended.assert_success();
        assert_eq!(ended.logged(&[&line, "probe"]), 1, "{ended:#?}");
    });
}

fn a_last_line_without_an_end_is_logged(backend: Backend) {
    // "cut off"
    probe(backend, "stderr-bytes=637574206f6666 die=9").run().assert_failure(&["SIGKILL"]).assert_logged(&["cut off"]);
}

fn a_flood_is_cut_and_what_is_missing_is_counted(backend: Backend) {
    let ended = probe(backend, "flood=100000 exit=0").run();
    ended.assert_success().assert_logged(&["line 0 of a flood"]);
    let logged = ended.logged(&["of a flood"]);
    assert!((50..5_000).contains(&logged), "{logged} lines were logged");
    let dropped: usize = ended.stderr.iter().filter_map(|line| dropped(line)).sum();
    assert_eq!(logged + dropped, 100_000);
}

/// The number in `dropped=1234`.
fn dropped(line: &str) -> Option<usize> {
    let (_, number) = line.split_once("dropped=")?;
    number.split_whitespace().next()?.parse().ok()
}

fn a_flood_does_not_keep_the_guest(backend: Backend) {
    let steps = format!("flood=20000 {BOOTED} resume flood=20000 serve=100 flood=20000 serve=100 exit=0");
    probe(backend, &steps).run().assert_success().assert_took(Duration::ZERO..Duration::from_secs(5));
}

fn bytes_that_could_steer_a_terminal_are_made_harmless(backend: Backend) {
    // ESC, "[2J", a byte that is no UTF-8, BEL, a line feed, "end"
    let ended = probe(backend, "stderr-bytes=1b5b324aff070a656e640a exit=0").run();
    ended.assert_success().assert_logged(&["end"]);
    let harmful = |line: &String| line.chars().any(|c| c.is_control() && c != '\t');
    assert!(!ended.stderr.iter().any(harmful), "{ended:#?}");
}

fn a_line_is_quoted_and_shows_all_its_characters(backend: Backend) {
    let line = "hidden\u{202e}\u{2028}\u{200b}\u{e0041} \" plugin=other dropped=7\n";
    let ended = probe(backend, &format!("stderr-bytes={} exit=0", hex(line.as_bytes()))).run();
    let shown = r#""hidden\u{202e}\u{2028}\u{200b}\u{e0041} \" plugin=other dropped=7" plugin="probe""#;
    ended.assert_success().assert_logged(&[shown]);
}

fn a_plugin_may_write_nothing(backend: Backend) {
    let ended = probe(backend, "connect exit=0").run();
    ended.assert_success();
    assert_eq!(ended.logged(&["WARN"]), 0, "{ended:#?}");
}

/// A file that cannot grow, at the limit of file sizes below.
fn a_file_at_its_limit() -> Stdio {
    let file = tempfile::tempfile().unwrap();
    file.set_len(FILE_SIZE_LIMIT).unwrap();
    (&file).seek(SeekFrom::End(0)).unwrap();
    Stdio::from(file)
}

/// More than the memory of a guest, or of a vCPU's ring, which are files too.
const FILE_SIZE_LIMIT: u64 = 1 << 24;

/// A pipe that nobody reads any more, a full disk, a file that may not grow: none is a reason to end a guest, or to end otherwise
/// than by the plugin's code.
fn a_vmm_whose_standard_error_takes_nothing_runs_on(backend: Backend) {
    let broken_pipe = || Stdio::from(pipe_with(PipeFlags::CLOEXEC).unwrap().1);
    let full_disk = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    for (steps, code) in [("exit=0", 0), ("exit=3", 1)] {
        let steps = format!("say=unheard {BOOTED} resume flood=1000 serve=100 print=served {steps}");
        for stderr in [broken_pipe(), full_disk(), a_file_at_its_limit()] {
            let call = Outboard::probe_with(backend, &talker(), &["-vv"], &steps).stderr(stderr);
            let ended = call.limited(Resource::Fsize, FILE_SIZE_LIMIT).run();
            assert_eq!((ended.code, &*ended.stdout), (Some(code), &["served".to_owned()][..]), "{ended:#?}");
        }
    }
}
