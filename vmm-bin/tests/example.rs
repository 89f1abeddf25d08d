//! The examples do what their README says.

mod common;

use common::{Backend, Outboard, example, on_each_backend};

on_each_backend! {
    the_adder_adds
}

fn the_adder_adds(backend: Backend) {
    let mut args = vec!["run".into(), "--hypervisor".into(), backend.name().into()];
    args.extend(["--plugin".into(), example("adder")]);
    let ended = Outboard::new(args).run();
    ended.assert_success();
    assert_eq!(ended.stdout, ["2 + 3 = 5", "20 + 22 = 42"]);
}
