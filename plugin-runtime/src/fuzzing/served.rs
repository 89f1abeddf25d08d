//! A VM of the mock and its main connections, without a process: both ends of each are here.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::num::NonZeroU32;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use hypervisor::Hypervisor;
use hypervisor::mock::Mock;
use plugin_proto::limits::{MAX_REQUEST, MAX_RESPONSE, MAX_RESPONSE_FDS};
use plugin_proto::messages::MainResponse;
use plugin_proto::messages::main_response::Message as Response;
use plugin_proto::{decode_incoming, decode_main_response};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use vmm_core::{HandlerThread, Machine, Notice, Notices, StopReason};

use crate::connection::{self, Buffers, Connection, Fault};
use crate::main_requests::{Outgoing, PluginVm, Then};
use crate::transport::{PluginHandler, VcpuLinks};
use crate::{Transport, descriptor_limit};

static MOCK: LazyLock<Mock> = LazyLock::new(|| {
    descriptor_limit::raise();
    Mock::guest_code()
});

/// What a VM is made with.
pub(super) struct Settings {
    pub(super) vcpus: NonZeroU32,
    pub(super) exit_timeout: Option<Duration>,
    pub(super) transport: Transport,
}

pub(super) struct Served {
    pub(super) vm: PluginVm<'static>,
    notices: Notices,
    /// The VMM's end and the plugin's.
    connections: Vec<(Connection, OwnedFd)>,
    buffers: Buffers,
    incoming: Vec<u8>,
    starts: bool,
}

/// What a request was answered with.
pub(super) struct Answer {
    pub(super) message: Option<Response>,
    pub(super) fds: Vec<OwnedFd>,
}

impl Served {
    /// A VM with one connection. A `start` is believed only where the VM `starts`.
    pub(super) fn new(settings: &Settings, starts: bool) -> Self {
        let &Settings { vcpus, exit_timeout, transport } = settings;
        let config = vmm_core::Config { vcpus, exit_timeout, cgroup: None, unclaimed: vmm_core::Unclaimed::default() };
        let (mut machine, notices) = Machine::new(MOCK.create_vm().unwrap(), &config).unwrap();
        let links = Arc::new(VcpuLinks::new(vcpus.get(), Some(0)).unwrap());
        let stop = machine.stop_signal().clone();
        let make = |vcpu: hypervisor::VcpuId| -> Box<dyn vmm_core::ExitHandler> {
            Box::new(PluginHandler::new(Arc::clone(&links), vcpu.index(), stop.clone()))
        };
        let owner = machine.attach("fuzzed", HandlerThread::Vcpu, make).unwrap();
        let vm =
            PluginVm::new(&*MOCK, machine, owner, links, transport, None, crate::memory_quota::MemoryQuota::new(None))
                .unwrap();
        let connections = vec![connection::pair().unwrap()];
        let incoming = vec![0; MAX_RESPONSE + 1];
        Self { vm, notices, connections, buffers: Buffers::new(), incoming, starts }
    }

    pub(super) fn has_connection(&self) -> bool {
        !self.connections.is_empty()
    }

    /// The plugin closes a connection.
    pub(super) fn close(&mut self, which: u8) {
        let (ours, theirs) = self.connections.swap_remove(usize::from(which) % self.connections.len());
        drop(theirs);
        assert!(matches!(ours.receive(&mut self.buffers), Err(Fault::Disconnected)));
    }

    /// Sends a datagram and takes the answer, with the VMM's part between. None where the connection was dropped, which it
    /// must be for what is no request, and for nothing else.
    pub(super) fn ask(&mut self, which: u8, datagram: &[u8], fds: &[BorrowedFd<'_>]) -> Option<Answer> {
        let index = usize::from(which) % self.connections.len();
        let (ours, theirs) = &self.connections[index];
        send(theirs, datagram, fds).expect("a socket that is read at once");
        let request = match ours.receive(&mut self.buffers) {
            Ok(request) => request.expect("what was sent is there"),
            Err(fault) => {
                let is_bad = match fault {
                    Fault::Disconnected => datagram.is_empty(),
                    Fault::TooLong => datagram.len() > MAX_REQUEST,
                    Fault::TooManyDescriptors => fds.len() > 1,
                    Fault::Decode(_) => decode_incoming(datagram).is_err(),
                    _ => false,
                };
                assert!(is_bad, "{fault}");
                self.connections.swap_remove(index);
                return None;
            }
        };
        assert_eq!(request.fd.is_some(), fds.len() == 1);
        let is_known = request.message.message.is_some();
        let reply = self.vm.handle(request, self.connections.len());
        let (ours, theirs) = &mut self.connections[index];
        let sent = match &reply.response {
            Outgoing::Message(response) => ours.send(response, &reply.fds, &mut self.buffers),
            Outgoing::Encoded(bytes) => ours.send_encoded(bytes, &reply.fds),
        };
        sent.expect("a plugin that reads its answers");
        let (response, mut fds) = receive(theirs, &mut self.incoming);
        match &reply.response {
            Outgoing::Message(expected) => assert_eq!(response, *expected),
            Outgoing::Encoded(bytes) => assert_eq!(response, decode_main_response(bytes).expect("a response")),
        }
        assert!((0..4096).contains(&response.errno), "{response}");
        assert_eq!(fds.len(), reply.fds.len());
        assert!(response.errno == 0 || fds.is_empty(), "{response}");
        assert_eq!(response.message.is_some(), is_known, "{response}");
        match reply.then {
            Then::Nothing => {}
            Then::Serve(connection) => self.connections.push((connection, fds.remove(0))),
            Then::Start if self.starts => self.vm.machine.start().expect("a first start"),
            Then::Start => {}
        }
        Some(Answer { message: response.message.filter(|_| response.errno == 0), fds })
    }
}

impl Drop for Served {
    /// Ends the VM. No vCPU may have died of a panic.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.vm.machine.join();
        while let Ok(notice) = self.notices.channel.try_recv() {
            assert!(!matches!(notice, Notice::Stopped(_, StopReason::Panicked)), "{notice:?}");
        }
    }
}

fn send(socket: &OwnedFd, datagram: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    sendmsg(socket, &[IoSlice::new(datagram)], &mut control, flags).map(drop)
}

fn receive(socket: &OwnedFd, incoming: &mut [u8]) -> (MainResponse, Vec<OwnedFd>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_RESPONSE_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(incoming)], &mut control, flags).expect("an answer at once");
    assert!(!received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC), "{:?}", received.flags);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    // The empty message has no bytes, and cannot be sent.
    (decode_main_response(&incoming[..received.bytes]).expect("an answer"), fds)
}
