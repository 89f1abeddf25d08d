//! The serial examples at string instructions, against a VMM that the test plays.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};

use plugin_proto::messages::main_request::Message as Request;
use plugin_proto::messages::main_request::create::Constructor;
use plugin_proto::messages::main_response::Message as Response;
use plugin_proto::messages::vcpu_request::Message as VcpuRequest;
use plugin_proto::messages::vcpu_response::wait::{Exit, Io};
use plugin_proto::messages::vcpu_response::{GetState, Message as VcpuResponse};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{FdFlags, fcntl_setfd};
use test_utils::fake::{VcpuEnds, Vmm, sockets};

use crate::common::{example, leftover};
use crate::compiler::{Program, library_folder};

/// Registers of the port.
const DATA: u64 = 0x3f8;
const SCRATCH: u64 = 0x3ff;
/// Where the guest says that it is done.
const END: u64 = 0xf4;

#[test]
fn the_serial_port_in_rust_serves_each_item() {
    serves_each_item(&example("serial"));
}

#[test]
fn the_serial_port_in_c_serves_each_item() {
    let test = "c_api::serial_items::the_serial_port_in_c_serves_each_item";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/c/serial.c");
    if let Some(program) = Program::compile(&source, test) {
        serves_each_item(&program.path());
    }
}

fn serves_each_item(plugin: &Path) {
    let (ours, theirs) = sockets();
    fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
    let mut command = Command::new(plugin);
    command.env("CROSVM_SOCKET", theirs.as_raw_fd().to_string()).env("LD_LIBRARY_PATH", library_folder());
    // Its input stays open and empty.
    let mut plugin = leftover::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let id = plugin.id();
    drop(theirs);
    let vcpu = start(&Vmm::over(ours));

    // `rep outsb` of two is two bytes sent; `out dx, ax` is one.
    write(&vcpu, DATA, b"ab", 1);
    write(&vcpu, DATA, b"cd", 2);
    // The last of two values that a string instruction writes stays.
    write(&vcpu, SCRATCH, &[1, 2], 1);
    assert_eq!(read(&vcpu, SCRATCH, 2, 1), [2, 2], "rep insb of two");
    assert_eq!(read(&vcpu, SCRATCH, 2, 2), [2, 0], "in ax, dx");
    assert_eq!(read(&vcpu, SCRATCH, 4, 2), [2, 0, 2, 0], "rep insw of two");
    vcpu.exit(Exit::Io(Io { address: END, is_write: true, data: vec![0], width: 1, ..Default::default() }));

    let mut printed = String::new();
    plugin.stdout.take().unwrap().read_to_string(&mut printed).unwrap();
    assert!(plugin.wait().unwrap().success());
    leftover::await_ends(id);
    assert_eq!(printed, "abc");
}

/// Serves what the plugin asks for until its vCPU has been resumed from `init`.
fn start(vmm: &Vmm) -> VcpuEnds {
    let (ours, theirs) = VcpuEnds::pipes();
    let event = || eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    loop {
        let (answer, fds): (_, Vec<OwnedFd>) = match vmm.request().0 {
            Request::Create(create) => {
                let fds = if matches!(create.constructor, Some(Constructor::IrqEvent(_))) {
                    vec![event(), event()]
                } else {
                    Vec::new()
                };
                (Response::Create(Default::default()), fds)
            }
            Request::ReserveRange(_) => (Response::ReserveRange(Default::default()), Vec::new()),
            Request::GetShutdownEventfd(_) => (Response::GetShutdownEventfd(Default::default()), vec![event()]),
            Request::Negotiate(_) => {
                vmm.knows_no_rings();
                continue;
            }
            Request::GetVcpus(_) => {
                let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
                vmm.answer(Response::GetVcpus(Default::default()), &fds);
                continue;
            }
            Request::Start(_) => break vmm.answer(Response::Start(Default::default()), &[]),
            other => panic!("{other:?}"),
        };
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        vmm.answer(answer, &fds);
    }
    drop(theirs);
    ours.init();
    loop {
        match ours.request() {
            VcpuRequest::Wait(_) => {}
            VcpuRequest::GetState(get) => {
                // `kvm_regs` or `kvm_sregs`.
                let state = vec![0; if get.set.value() == 0 { 144 } else { 312 }];
                ours.answer(VcpuResponse::GetState(GetState { state, ..Default::default() }));
            }
            VcpuRequest::SetState(_) => ours.answer(VcpuResponse::SetState(Default::default())),
            VcpuRequest::Resume(_) => return ours,
            other => panic!("{other:?}"),
        }
    }
}

fn read(vcpu: &VcpuEnds, address: u64, length: usize, width: u32) -> Vec<u8> {
    vcpu.exit(Exit::Io(Io { address, data: vec![0; length], width, ..Default::default() }));
    vcpu.resume().data
}

fn write(vcpu: &VcpuEnds, address: u64, data: &[u8], width: u32) {
    vcpu.exit(Exit::Io(Io { address, is_write: true, data: data.to_vec(), width, ..Default::default() }));
    vcpu.resume();
}
