//! What is left of a call that has ended: its code, what it said, how long it took.

use std::time::Duration;

use super::busy::is_in_time;

/// A call that has ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(super) call: String,
    pub(crate) code: Option<i32>,
    /// That killed it, where that was to be reckoned with.
    pub(crate) signal: Option<i32>,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
    /// From start to end.
    pub(crate) took: Duration,
    /// How long of it the machine was busy.
    pub(crate) busy: Duration,
    /// Of `outboard` itself.
    pub(crate) cpu_time: Duration,
}

impl Ended {
    /// It ended well, and told of no error.
    pub(crate) fn assert_success(&self) -> &Self {
        assert_eq!((self.code, self.errors()), (Some(0), vec![]), "{self:#?}");
        self
    }

    /// It failed, with one line that tells of the error and has all of `parts` in it: the last of all.
    pub(crate) fn assert_failure(&self, parts: &[&str]) -> &Self {
        assert!(self.code.is_some_and(is_failure), "{self:#?}");
        let errors = self.errors();
        // A soak's has a second line.
        let mut behind = self.stderr.iter().rev().take_while(|line| !line.starts_with(ERROR));
        assert!(behind.all(|line| line.starts_with("repeat it with: ")), "the error is not the last line: {self:#?}");
        let [error] = errors.as_slice() else { panic!("not one error: {self:#?}") };
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}: {self:#?}");
        }
        self
    }

    /// It ended well, or failed with one line that tells of the error.
    pub(crate) fn assert_clear(&self) -> &Self {
        let clear = matches!((self.code, self.errors().len()), (Some(0), 0))
            || self.code.is_some_and(is_failure) && self.errors().len() == 1;
        assert!(clear, "no clear end: {self:#?}");
        self.assert_no_panic()
    }

    /// Some line on standard error has all of `parts` in it.
    pub(crate) fn assert_logged(&self, parts: &[&str]) -> &Self {
        assert!(self.logged(parts) > 0, "no line with {parts:?}: {self:#?}");
        self
    }

    /// How many lines on standard error have all of `parts` in them.
    pub(crate) fn logged(&self, parts: &[&str]) -> usize {
        self.stderr.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// No thread of it panicked.
    pub(crate) fn assert_no_panic(&self) -> &Self {
        assert_eq!(self.logged(&["panicked"]), 0, "{self:#?}");
        self
    }

    /// It took so long; more where the machine was busy.
    pub(crate) fn assert_took(&self, range: std::ops::Range<Duration>) -> &Self {
        let in_time = is_in_time(self.took, self.busy, range.end);
        assert!(range.start <= self.took && in_time, "not within {range:?}: {self:#?}");
        self
    }

    fn errors(&self) -> Vec<&str> {
        self.stderr.iter().filter_map(|line| line.strip_prefix(ERROR)).collect()
    }

    /// It exited with `code`.
    pub(crate) fn assert_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }
}

/// How the line begins that tells of the error.
const ERROR: &str = "outboard: error: ";

/// Whether the code says that the plugin, the guest or the VMM failed, or that a signal ended the VM.
fn is_failure(code: i32) -> bool {
    matches!(code, 1 | 3 | 4 | 129 | 130 | 143)
}
