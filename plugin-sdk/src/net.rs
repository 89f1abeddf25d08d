//! The network that the VMM's user has given to the plugin.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use crate::connection::{ask, exactly};
use crate::{Connection, Error};

/// A tap, and how the host's side of it is set up.
#[derive(Debug)]
pub struct NetConfig {
    /// The tap: a `read` is a frame from the host, a `write` a frame to it. It does not block and has no packet
    /// information; it has a vnet header when the user named a tap that has.
    pub tap: OwnedFd,
    /// The host's MAC address.
    pub host_mac: [u8; 6],
    /// The host's IPv4 address.
    pub host_ip: Ipv4Addr,
    /// The netmask of that address.
    pub netmask: Ipv4Addr,
}

impl Connection {
    /// The network, with a descriptor of the tap that is this caller's.
    ///
    /// # Errors
    /// [`Error::Refused`]: `ENODATA` when the user has given none.
    pub fn net_config(&mut self) -> Result<NetConfig, Error> {
        let (answer, fds) = ask!(self, "get_net_config", GetNetConfig(Default::default()))?;
        let [tap] = exactly(fds)?;
        let host_mac = <[u8; 6]>::try_from(answer.host_mac_address)
            .map_err(|bytes| Error::unexpected(format!("a MAC address of {} bytes", bytes.len())))?;
        let (host_ip, netmask) = (address(answer.host_ipv4_address), address(answer.netmask));
        Ok(NetConfig { tap, host_mac, host_ip, netmask })
    }
}

/// On the wire stands the number whose bytes in this machine's memory are the address in network byte order.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(number.to_ne_bytes())
}
