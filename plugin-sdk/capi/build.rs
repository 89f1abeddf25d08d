//! Names the shared library: programs that are linked with it ask for it by this name, as they always have.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libcrosvm_plugin.so");
}
