//! Attempts on the network, and on sockets that are in no file system.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::kit::{Host, in_each_setting};

in_each_setting! {
    a_port_of_the_host
    the_world
    an_abstract_socket
    a_socket_in_the_hosts_file_system
    raw_sockets
    the_hosts_interfaces
}

fn the_world(host: &Host) {
    host.attempt("send-to-the-world", &[]).held();
}

fn raw_sockets(host: &Host) {
    host.attempt("raw-and-kernel-sockets", &[]).held();
}

fn the_hosts_interfaces(host: &Host) {
    host.attempt("see-interfaces", &[]).held();
}

fn a_port_of_the_host(host: &Host) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    host.attempt("connect-to-a-port-of-the-host", &[&address]).held();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn an_abstract_socket(host: &Host) {
    let name = format!("outboard-test-{}-{}-{:?}", std::process::id(), host.backend.name(), host.user);
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
    listener.set_nonblocking(true).unwrap();
    host.attempt("connect-to-an-abstract-socket", &[&name]).held();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

fn a_socket_in_the_hosts_file_system(host: &Host) {
    let listener = UnixListener::bind(host.path("socket")).unwrap();
    listener.set_nonblocking(true).unwrap();
    host.attempt("connect-to-a-socket-of-the-host", &[&host.text("socket")]).held();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}
