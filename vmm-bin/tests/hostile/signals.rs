//! A plugin that uses up the pending signals of its user, which is the VMM's and that of other VMs too.
//!
//! Each VMM has a limit of its own here, below that of this machine's other processes, so those are not disturbed.

use std::time::Duration;

use rustix::process::{Resource, Signal};
use test_utils::guest::Program;
use test_utils::raw::request::{self, IOPORT};
use test_utils::raw::{VcpuPipes, Wait};

use crate::common::{Backend, Driven, Outboard, Span, on_each_backend};

on_each_backend! {
    without_pending_signals_a_pause_comes
    without_pending_signals_sigterm_ends_the_vmm
    without_pending_signals_another_vm_is_unaffected
}

/// Pending signals of each process's user, as its limit has it.
const MOST: u64 = 1000;

/// A VM without a jail, whose user may have few pending signals, and its vCPUs, which run and make no exits.
fn started(backend: Backend) -> (Driven, Vec<VcpuPipes>) {
    let options = ["--disable-sandbox", "-c", "2"];
    let call = Outboard::plugin(backend, &options, "relay", [""; 0]).limited(Resource::Sigpending, MOST);
    let driven = Driven::start(&Program::new().output(0x10, 1).forever(), call);
    let mut vcpus = driven.running(&[request::reserve(IOPORT, 0x10, 1)]);
    vcpus.iter_mut().for_each(|vcpu| drop(vcpu.await_io()));
    driven.main.done(&request::reserve(IOPORT, 0x10, 0));
    vcpus.iter().for_each(VcpuPipes::resume);
    (driven, vcpus)
}

/// Lets the plugin use up the pending signals of its user.
fn use_up_signals(driven: &mut Driven) {
    driven.relay.command("use-up-signals");
    driven.running.await_logged(&["signals are pending"]);
}

fn pause_all(driven: &Driven, vcpus: &mut [VcpuPipes], user: u64) {
    driven.main.done(&request::pause(3, user));
    for vcpu in vcpus {
        assert_eq!(vcpu.await_exit(), Wait::User(user));
        vcpu.resume();
    }
}

fn without_pending_signals_a_pause_comes(backend: Backend) {
    let (mut driven, mut vcpus) = started(backend);
    use_up_signals(&mut driven);
    for user in 0..10 {
        pause_all(&driven, &mut vcpus, user);
    }
    driven.finish();
}

fn without_pending_signals_sigterm_ends_the_vmm(backend: Backend) {
    let (mut driven, _vcpus) = started(backend);
    use_up_signals(&mut driven);
    driven.signal(Signal::TERM);
    let begun = Span::begin();
    driven.end().assert_failure(&["ended by signal 15 (SIGTERM)"]).assert_logged(&["did not exit in time"]);
    assert!(begun.is_within(Duration::from_secs(10)), "{:?}", begun.elapsed());
}

fn without_pending_signals_another_vm_is_unaffected(backend: Backend) {
    let (mut driven, _vcpus) = started(backend);
    let (other, mut others_vcpus) = started(backend);
    use_up_signals(&mut driven);
    pause_all(&other, &mut others_vcpus, 7);
    // One that is started only now.
    let (third, mut thirds_vcpus) = started(backend);
    pause_all(&third, &mut thirds_vcpus, 8);
    other.relay.command("exit 0");
    other.end_soon().assert_success();
    third.relay.command("exit 0");
    third.end_soon().assert_success();
    driven.finish();
}
