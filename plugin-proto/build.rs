//! Turns `proto/plugin.proto` into Rust. `pure()` needs neither `protoc` nor a C compiler.

fn main() {
    println!("cargo::rerun-if-changed=proto/plugin.proto");
    protobuf_codegen::Codegen::new()
        .pure()
        .include("proto")
        .input("proto/plugin.proto")
        .cargo_out_dir("messages")
        .run_from_script();
}
