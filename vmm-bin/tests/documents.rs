//! Tests that documents name are there, and what the jail is tried with is in its document.
//!
//! A test is named in the last cell of a table's row, in code marks, by the end of its module's path and its function; a function
//! alone is of the module named before it in that cell. `module::*` is all of a module.

#![allow(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The documents whose tables name tests.
const DOCUMENTS: [&str; 3] = ["docs/promises.md", "docs/security.md", "docs/mock-chips.md"];
/// What stands over a column of tests.
const HEADING: &str = "test";

/// The jail's tests, and those of their files whose tests are attempts, or ends.
const JAIL: &str = "vmm-bin/tests/jail";
const ATTEMPTS: [&str; 8] = ["counts", "ends", "files", "kernel", "limits", "mounts", "network", "processes"];

#[test]
fn every_test_that_a_document_names_is_there() {
    let tests = all_tests();
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let names = named(&read(document));
        assert!(names.len() > 20, "{document} names {names:?}");
        missing.extend(names.into_iter().filter(|name| !is_there(name, &tests)).map(|name| (document, name)));
    }
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
}

#[test]
fn every_attempt_at_the_jail_is_in_its_table() {
    let tests = all_tests();
    let names = named(&read("docs/security.md"));
    for module in ATTEMPTS {
        let path = root().join(JAIL).join(module).display().to_string();
        let attempts = &tests[&path];
        assert!(attempts.len() > 4, "{module}: {attempts:?}");
        let is_named = |test: &&String| names.iter().any(|(of, name)| of == module && (name == "*" || name == *test));
        let missing: Vec<_> = attempts.iter().filter(|test| !is_named(test)).collect();
        assert!(missing.is_empty(), "docs/security.md does not name these of {module}: {missing:?}");
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap()
}

/// Those of all crates.
fn all_tests() -> Tests {
    let mut tests = Tests::new();
    for member in fs::read_dir(root()).unwrap() {
        let member = member.unwrap().path();
        for folder in ["src", "tests"] {
            collect(&member.join(folder), &mut tests);
        }
    }
    collect(&root().join("plugin-sdk/capi/tests"), &mut tests);
    assert!(tests.len() > 100, "{}", tests.len());
    tests
}

/// The modules' paths, and the tests in each.
type Tests = BTreeMap<String, Vec<String>>;

/// Takes in a folder of sources, if it is there.
fn collect(folder: &Path, tests: &mut Tests) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, tests);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = path.with_extension("");
            // A folder's own file is the module of the folder's name.
            let module = if module.ends_with("main") || module.ends_with("mod") { folder } else { &module };
            let source = fs::read_to_string(&path).unwrap();
            tests.entry(module.display().to_string()).or_default().extend(tests_in(&source));
        }
    }
}

/// The functions behind `#[test]`, and the names that stand alone on a line or beside each other in a macro that makes tests.
fn tests_in(source: &str) -> Vec<String> {
    let mut tests = Vec::new();
    let mut is_test = false;
    let mut in_macro = false;
    for line in source.lines().map(str::trim) {
        match line.split_once("fn ") {
            Some((_, function)) if is_test => {
                tests.extend(function.split(['(', '<']).next().map(str::to_owned));
                is_test = false;
            }
            _ if line == "#[test]" => is_test = true,
            _ if line.ends_with("! {") => in_macro = true,
            _ if line.starts_with('}') => in_macro = false,
            _ if in_macro => tests.extend(line.split_whitespace().map(str::to_owned)),
            _ => {}
        }
    }
    tests
}

/// What the last cells of a document's tables name: module and function.
fn named(document: &str) -> Vec<(String, String)> {
    let mut names = Vec::new();
    let mut in_table = false;
    for line in document.lines() {
        let Some(row) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else {
            in_table = false;
            continue;
        };
        let last = row.rsplit('|').next().unwrap_or_default().trim();
        if last == HEADING {
            in_table = true;
        } else if in_table {
            let mut module = String::new();
            for name in last.split('`').skip(1).step_by(2).filter(|name| is_name(name)) {
                let function = match name.rsplit_once("::") {
                    Some((of, function)) => {
                        module = of.to_owned();
                        function
                    }
                    None => name,
                };
                names.push((module.clone(), function.to_owned()));
            }
        }
    }
    names
}

/// Whether code marks hold a test's name: commands and fuzz targets have none of its marks.
fn is_name(text: &str) -> bool {
    text.contains("::") || text.contains('_')
}

fn is_there((module, function): &(String, String), tests: &Tests) -> bool {
    let end = format!("/{}", module.replace("::", "/"));
    let mut candidates = tests.iter().filter(|(path, _)| path.ends_with(&end));
    candidates.any(|(_, tests)| function == "*" || tests.contains(function))
}

#[test]
fn a_test_is_found_by_the_end_of_its_modules_path() {
    let source = "#[test]\nfn alone() {}\n\non_each_backend! {\n    both\n    some others\n}\nfn helper() {}\n";
    let tests: Tests = [("crate/tests/hostile/order".to_owned(), tests_in(source))].into();
    let there = |module: &str, function: &str| is_there(&(module.into(), function.into()), &tests);
    for test in ["alone", "both", "some", "others", "*"] {
        assert!(there("order", test) && there("hostile::order", test), "{test}");
    }
    assert!(!there("order", "helper") && !there("rder", "alone") && !there("other", "alone"));
}

#[test]
fn a_name_alone_is_of_the_module_before_it_in_the_cell() {
    let table = "| a | test |\n|---|---|\n| `x_y::no` | `m::a_b`, `c_d`; `n::e`, and `outboard soak` |\n\n| `z::z` |\n";
    let expected = [("m", "a_b"), ("m", "c_d"), ("n", "e")].map(|(module, name)| (module.to_owned(), name.to_owned()));
    assert_eq!(named(table), expected);
}
