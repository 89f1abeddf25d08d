//! The table of attempts in `docs/security.md` names tests that are there, and all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The files of this folder whose tests are attempts, or ends.
const MODULES: [&str; 7] = ["ends", "files", "kernel", "limits", "mounts", "network", "processes"];

#[test]
fn each_attempt_of_the_table_is_a_test_and_each_test_is_in_the_table() {
    let document = include_str!("../../../docs/security.md");
    let all: BTreeSet<_> = MODULES.into_iter().flat_map(|module| tests_of(module).into_iter()).collect();
    let mut named = BTreeSet::new();
    for cells in document.lines().filter_map(cells_of_a_threat) {
        let mut module = String::new();
        // In code marks: `module::test`, then `test` of the same module; `module::*` for all of it.
        for name in cells[2].split('`').skip(1).step_by(2) {
            let test = match name.split_once("::") {
                Some((of, test)) => {
                    module = of.to_owned();
                    test
                }
                None => name,
            };
            let prefix = format!("{module}::");
            let matching: Vec<_> = all
                .iter()
                .filter(|found| found.strip_prefix(&prefix).is_some_and(|found| test == "*" || test == found))
                .collect();
            assert!(!matching.is_empty(), "no test is called {prefix}{test}: {cells:?}");
            named.extend(matching);
        }
    }
    let missing: Vec<_> = all.iter().filter(|test| !named.contains(test)).collect();
    assert!(missing.is_empty(), "tests that docs/security.md does not name: {missing:?}");
}

/// A row with three cells whose last has a test in it.
fn cells_of_a_threat(line: &str) -> Option<[&str; 3]> {
    let cells: Vec<_> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').map(str::trim).collect();
    cells.try_into().ok().filter(|cells: &[&str; 3]| cells[2].contains("::"))
}

/// The names in the file's `as_each_user!`, each with the module's.
fn tests_of(module: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jail").join(module).with_extension("rs");
    let source = fs::read_to_string(path).unwrap();
    let (_, list) = source.split_once("as_each_user! {").unwrap();
    let (list, _) = list.split_once('}').unwrap();
    list.split_whitespace().map(|test| format!("{module}::{test}")).collect()
}
