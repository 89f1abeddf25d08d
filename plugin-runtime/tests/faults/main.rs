//! Everything a VMM asks of its backend and of the kernel while it runs a plugin fails in turn: the plugin, or the user, is told
//! what failed, what was half made is undone, nothing is left behind, and the VMM ends or goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod life;
mod taps;

use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hypervisor::Hypervisor;
use hypervisor::mock::{Mock, Script, Step};
use hypervisor::{Exit, SynicWrite, VcpuId};
use plugin_runtime::{Config, PluginCommand, Sandbox, Transport, run};
use test_utils::fake::Plugin;
use test_utils::faults::syscalls::{Call, Silent, Whose, failing_of};
use test_utils::faults::{Faults, Faulty};
use test_utils::kvm::kvm_or_skip;
use test_utils::log;
use test_utils::resources::Resources;

/// No scenario gets this by itself.
const EDQUOT: i32 = 122;

#[test]
fn the_plugin() {
    test_utils::fake::be_the_plugin();
}

/// Kinds of calls, and what an error is about that comes of one: words of the run's error, of an answer to the plugin, or of
/// the log.
const CALLS: [(Call, &[&str]); 17] = [
    (Call::READ, &["reading a vCPU pipe", "its standard error is logged no more"]),
    (Call::WRITE, &["writing a vCPU pipe"]),
    (Call::EVENTFD, &["eventfd", "shutdown event", "refused create"]),
    (Call::EPOLL_CREATE, &["epoll"]),
    (Call::EPOLL_CTL, &["watching a descriptor with epoll", "refused create"]),
    (Call::SOCKETPAIR, &["socket", "starting plugin", "refused new_connection"]),
    (Call::PIPE, &["pipe", "lifeline"]),
    (Call::PIDFD, &["pidfd_open on the plugin"]),
    (Call::MEMFD, &["refused get_vcpu_rings"]),
    (Call::TRUNCATE, &["refused get_vcpu_rings"]),
    (Call::FCNTL, &["pipe", "signal", "lifeline", "refused "]),
    (Call::MMAP, &["refused create", "refused get_vcpu_rings"]),
    (Call::CLONE, &["starting the thread", "starting plugin"]),
    (Call::RECVMSG, &["connection dropped: receiving"]),
    (Call::SENDMSG, &["connection dropped: sending"]),
    (Call::WAIT, &["waiting for"]),
    (Call::WAITID, &["waiting for the end of plugin"]),
];

/// Calls whose failure nobody is told of.
const SILENT: [Silent; 8] = [
    ("fcntl", |args| args[1] == libc::F_SETPIPE_SZ as u64, "a pipe that cannot be made larger is a smaller one"),
    ("epoll_ctl", |args| args[1] == libc::EPOLL_CTL_DEL as u64, "what is watched no more is closed next"),
    ("epoll_pwait", |args| args[3] == 0, "the mock looks at irqfds once more"),
    ("ppoll", |args| args[1] == 2, "a vCPU of the mock that halts looks once more"),
    ("ioctl", |args| args[1] == KVM_CHECK_EXTENSION, "what cannot be asked for is not there"),
    ("ioctl", |args| args[1] == libc::TIOCOUTQ, "descriptors count as unread where that is not known"),
    ("read", |args| args[2] == 8, "an eventfd that was not emptied is looked at once more"),
    ("read", |args| args[2] <= 0x80, "without the control group's quota all processors count"),
];

/// `KVM_CHECK_EXTENSION` of `linux/kvm.h`.
const KVM_CHECK_EXTENSION: u64 = 0xae03;

/// Kinds of calls that are made for rings, all or some.
const OF_RINGS: [Call; 4] = [Call::MEMFD, Call::TRUNCATE, Call::MMAP, Call::FCNTL];

/// One test, since it compares what the process holds.
#[test]
fn whatever_fails_is_named_and_undone() {
    log::keep();
    for transport in [Transport::Pipe, Transport::Ring] {
        let (told, ()) = scenario(transport, &scripted(), |run| run());
        assert_eq!(told, [""; 0], "without a fault");
    }
    each_operation_of_the_backend();
    for (call, names) in CALLS {
        // What is made for rings alone fails with rings alone.
        let transport = if OF_RINGS.contains(&call) { Transport::Ring } else { Transport::Pipe };
        let calls = each_call_of(Whose::Own, transport, &scripted(), call, names);
        assert!(calls > 0, "no {} was called", call.name);
    }
    // The VMM's child, until it is the plugin.
    let child = Whose::Child { nth: 1, execs: 0 };
    let calls = each_call_of(child, Transport::Pipe, &scripted(), Call::ANY, &["starting plugin"]);
    assert!(calls > 4, "no more than {calls} were called");
    taps::each_call();
    if let Some(kvm) = kvm_or_skip("whatever_fails_is_named_and_undone, the half for KVM") {
        let (told, ()) = scenario(Transport::Pipe, &kvm, |run| run());
        assert_eq!(told, [""; 0], "without a fault");
        each_call_of(
            Whose::Own,
            Transport::Pipe,
            &kvm,
            Call::IOCTL,
            &["KVM_", "refused ", "connection dropped: sending"],
        );
        each_call_of(Whose::Own, Transport::Pipe, &kvm, Call::MMAP, &["kvm_run", "KVM_CREATE_VCPU", "refused create"]);
    }
}

fn each_operation_of_the_backend() {
    let before = Resources::own();
    for n in 1.. {
        let faults = Faults::nth(n, EDQUOT);
        let (told, ()) = scenario(Transport::Pipe, &Faulty::new(scripted(), &faults), |run| run());
        let Some(struck) = faults.struck() else { break };
        let what = format!("operation {n}, {struck}");
        match struck {
            "KVM_CHECK_EXTENSION" => assert_eq!(told, ["the VMM has no KVM_CAP_IRQCHIP"], "{what}"),
            _ => assert!(is_named(&told, &[struck, "refused "]), "{what}: {told:#?}"),
        }
        Resources::assert_no_more_than(before, &what);
    }
}

/// How many there were.
fn each_call_of(whose: Whose, transport: Transport, hypervisor: &dyn Hypervisor, call: Call, names: &[&str]) -> usize {
    let before = Resources::own();
    for n in 1.. {
        let (told, struck) = scenario(transport, hypervisor, |run| failing_of(whose, call, n, EDQUOT, run).1);
        let Some(struck) = struck else {
            println!("{whose:?}, {transport:?} on {}: {} times {} failed", hypervisor.name(), n - 1, call.name);
            return n - 1;
        };
        let what = format!("{transport:?} on {}, call {n}, {}{:x?}", hypervisor.name(), struck.name(), struck.args);
        let is_silent = told.iter().all(|line| line == "the VMM has no KVM_CAP_IRQCHIP") && struck.is_among(&SILENT);
        assert!(is_silent || is_named(&told, names), "{what}: {told:#?}");
        Resources::assert_no_more_than(before, &what);
    }
    unreachable!("numbers do not end")
}

/// Whether somebody was told of the fault, in one of these words.
fn is_named(told: &[String], names: &[&str]) -> bool {
    let why = format!("os error {EDQUOT}");
    told.iter().any(|line| line.contains(&why) && names.iter().any(|name| line.contains(name)))
}

/// A backend whose first vCPU makes every kind of exit.
fn scripted() -> Mock {
    Mock::with(|vcpu| {
        let steps = [
            Step::Mov(5),
            Step::Out { port: life::PORT, width: 4 },
            Step::In { port: life::PORT, width: 2 },
            Step::Outs { port: life::PORT, data: vec![9; 100] },
            Step::Out { port: life::POSTED, width: 1 },
            Step::Out { port: life::HINTED, width: 1 },
            Step::HypervCall { input: 1, params: [2, 3] },
            Step::Exit(Exit::HypervSynic(SynicWrite { msr: 0x4000_0080, control: 1, evt_page: 0, msg_page: 0 })),
            Step::Out { port: life::DONE, width: 1 },
        ];
        Script::once(steps.into_iter().filter(|_| vcpu == VcpuId(0)))
    })
}

/// A VMM's whole life, and its plugin's: all that either was told of as failed. `stage` runs the VMM.
fn scenario<T>(
    transport: Transport,
    hypervisor: &dyn Hypervisor,
    stage: impl FnOnce(&mut (dyn FnMut() + Send)) -> T,
) -> (Vec<String>, T) {
    let plugin = Plugin::new("the_plugin");
    let command = PluginCommand { path: plugin.path(), args: plugin.args() };
    let (told, over) = (Mutex::new(Vec::new()), AtomicBool::new(false));
    let value = thread::scope(|scope| {
        let (told, over) = (&told, &over);
        // The plugin is the thread's own: should that panic, the process that waits for it ends, and with it the VMM.
        scope.spawn(move || life::live(&plugin, over, told));
        let value = stage(&mut || {
            if let Err(error) = run(hypervisor, &command, config(transport)) {
                told.lock().unwrap().push(format!("run: {error}"));
            }
        });
        over.store(true, Ordering::SeqCst);
        value
    });
    let mut told = told.into_inner().unwrap();
    told.extend(log::take());
    (told, value)
}

fn config(transport: Transport) -> Config {
    Config { transport, ..Config::new(NonZeroU32::new(2).unwrap(), Sandbox::None) }
}
