//! The library itself: what it exports and what programs need of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::compiler::{Program, capi, is_there_or_skip, library_folder, run};

/// The functions that the header declares.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(capi().join("include/crosvm.h")).unwrap();
    let names = header.lines().filter_map(|line| line.strip_prefix("int ")?.split_once('(').map(|(name, _)| name));
    names.map(str::to_owned).collect()
}

#[test]
fn the_library_exports_the_functions_of_the_header_and_nothing_else() {
    let test = "the_library_exports_the_functions_of_the_header_and_nothing_else";
    if !is_there_or_skip("nm", test) {
        return;
    }
    let symbols =
        run(Command::new("nm").args(["-D", "--defined-only"]).arg(library_folder().join("libcrosvm_plugin.so")));
    let exported: Vec<_> = symbols.lines().filter_map(|line| line.split(' ').nth(2)).map(str::to_owned).collect();
    // Those of crosvm, and those beyond.
    let count = |prefix| exported.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((count("crosvm_"), count("outboard_")), (60, 1), "{exported:#?}");
    assert_eq!(BTreeSet::from_iter(exported), declared());
}

#[test]
fn structures_and_arguments_are_those_of_compiled_plugins() {
    let test = "structures_and_arguments_are_those_of_compiled_plugins";
    let Some(program) = Program::compile(&capi().join("tests/c/layout.c"), test) else { return };
    // It names each function, so the linker has found all of them. Cargo's own folder may hold an older library.
    run(Command::new(program.path()).env("LD_LIBRARY_PATH", library_folder()));
}

#[test]
fn a_program_linked_by_name_needs_the_library_by_its_old_name() {
    let test = "a_program_linked_by_name_needs_the_library_by_its_old_name";
    let Some(program) = Program::compile(&capi().join("tests/c/environment.c"), test) else { return };
    if is_there_or_skip("readelf", test) {
        let needed = run(Command::new("readelf").arg("-d").arg(program.path()));
        assert!(needed.contains("(NEEDED)             Shared library: [libcrosvm_plugin.so]"), "{needed}");
    }
}

#[test]
fn without_a_vmm_connecting_tells_what_is_wrong_with_the_environment() {
    let test = "without_a_vmm_connecting_tells_what_is_wrong_with_the_environment";
    let Some(program) = Program::compile(&capi().join("tests/c/environment.c"), test) else { return };
    run(&mut Command::new(program.path()));
}

#[test]
fn the_header_compiles_as_cpp_17_and_as_strict_c_11() {
    let test = "the_header_compiles_as_cpp_17_and_as_strict_c_11";
    let header = capi().join("include/crosvm.h");
    let compile = |compiler: &str, language: &str, standard: &str, header: &Path| {
        if is_there_or_skip(compiler, test) {
            run(Command::new(compiler)
                .args(["-fsyntax-only", "-Wall", "-Wextra", "-Werror", standard, "-x", language])
                .arg(header));
        }
    };
    compile("cc", "c", "-std=c11", &header);
    compile("c++", "c++", "-std=c++17", &header);
}
