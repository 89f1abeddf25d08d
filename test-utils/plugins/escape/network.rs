//! The network, and sockets that are not in the file system.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixStream};

use crate::{Attempt, Verdict, failed, refused};

pub(crate) const ATTEMPTS: &[(&str, Attempt)] = &[
    ("connect-to-a-port-of-the-host", connect_to_a_port_of_the_host),
    ("send-to-the-world", send_to_the_world),
    ("connect-to-an-abstract-socket", connect_to_an_abstract_socket),
    ("connect-to-a-socket-of-the-host", connect_to_a_socket_of_the_host),
    ("raw-and-kernel-sockets", raw_and_kernel_sockets),
    ("see-interfaces", see_interfaces),
];

/// The first argument is an address at which the host listens.
fn connect_to_a_port_of_the_host(args: &[String]) -> Verdict {
    let address: SocketAddr = args.first().and_then(|arg| arg.parse().ok()).ok_or("ESCAPE KIT: no address")?;
    failed("connecting", TcpStream::connect(address))
}

fn send_to_the_world(_: &[String]) -> Verdict {
    failed("sending", UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.send_to(b"x", "192.0.2.1:9")))
}

/// The first argument is the name of an abstract socket at which the host listens.
fn connect_to_an_abstract_socket(args: &[String]) -> Verdict {
    let name = args.first().ok_or("ESCAPE KIT: no name")?;
    let address = UnixAddr::from_abstract_name(name.as_bytes()).map_err(|error| error.to_string())?;
    failed("connecting", UnixStream::connect_addr(&address))
}

/// The first argument is the path of a socket at which the host listens.
fn connect_to_a_socket_of_the_host(args: &[String]) -> Verdict {
    let path = args.first().ok_or("ESCAPE KIT: no path")?;
    failed("connecting", UnixStream::connect(path))
}

/// Some kinds of sockets may be made, but only in a network that has nobody in it.
fn raw_and_kernel_sockets(_: &[String]) -> Verdict {
    for (name, family, kind) in [
        ("raw", libc::AF_INET, libc::SOCK_RAW),
        ("packet", libc::AF_PACKET, libc::SOCK_RAW),
        ("packet, cooked", libc::AF_PACKET, libc::SOCK_DGRAM),
    ] {
        // SAFETY: plain numbers.
        refused(name, unsafe { libc::socket(family, kind, 0) })?;
    }
    Ok(())
}

/// All there may be is the network's own loopback, which is down.
fn see_interfaces(_: &[String]) -> Verdict {
    // SAFETY: plain numbers.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) };
    for index in 1..100 {
        // SAFETY: an `ifreq` of zeros is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        request.ifr_ifru.ifru_ifindex = index;
        // SAFETY: `request` is what the call reads and writes.
        if unsafe { libc::ioctl(socket, libc::SIOCGIFNAME, &raw mut request) } == 0 {
            let name: String = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8 as char).collect();
            if name != "lo" {
                return Err(format!("interface {name}"));
            }
        }
    }
    Ok(())
}
