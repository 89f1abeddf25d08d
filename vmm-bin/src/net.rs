//! The network options of `outboard run`.
#![allow(unsafe_code, reason = "a descriptor that was inherited is known by its number alone")]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{BorrowedFd, RawFd};

use clap::Args;
use plugin_runtime::{MacAddress, Tap};

use crate::error::Error;

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetArgs {
    /// Make a tap for the plugin, with this address on the host's side
    #[arg(long, value_name = "IPV4", requires_all = ["netmask", "mac"])]
    host_ip: Option<Ipv4Addr>,
    /// The netmask of --host-ip
    #[arg(long, value_name = "IPV4", requires = "host_ip")]
    netmask: Option<Ipv4Addr>,
    /// The MAC address of the tap that is made
    #[arg(long, value_name = "MAC", requires = "host_ip", value_parser = mac)]
    mac: Option<MacAddress>,
    /// Give the plugin this tap, as it is set up
    #[arg(long, value_name = "NAME", conflicts_with_all = ["host_ip", "tap_fd"])]
    tap_name: Option<String>,
    /// Give the plugin the tap behind this inherited descriptor, as it is set up
    #[arg(long, value_name = "FD", conflicts_with = "host_ip", value_parser = clap::value_parser!(i32).range(3..))]
    tap_fd: Option<RawFd>,
}

impl NetArgs {
    /// The tap that was asked for.
    pub(crate) fn tap(&self) -> Result<Option<Tap>, Error> {
        if let (Some(address), Some(netmask), Some(mac)) = (self.host_ip, self.netmask, self.mac) {
            return Ok(Some(Tap::create(address, netmask, mac)?));
        }
        if let Some(name) = &self.tap_name {
            return Ok(Some(Tap::open(name)?));
        }
        if let Some(number) = self.tap_fd {
            // SAFETY: the number is only used to copy the descriptor, which fails where none is open.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            let copy = borrowed.try_clone_to_owned().map_err(|source: io::Error| Error::System {
                doing: format!("taking over descriptor {number}"),
                source,
            })?;
            return Ok(Some(Tap::from_fd(copy)?));
        }
        Ok(None)
    }
}

fn mac(text: &str) -> Result<MacAddress, String> {
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| (byte.len() == 2).then(|| u8::from_str_radix(byte, 16).ok()).flatten())
        .collect::<Option<_>>()
        .ok_or("not six bytes in hexadecimal with colons between")?;
    let mac = MacAddress::try_from(bytes).map_err(|_| "not six bytes")?;
    if mac[0] & 1 != 0 { Err("a multicast address".into()) } else { Ok(mac) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_is_six_hexadecimal_bytes_and_not_multicast() {
        assert_eq!(mac("70:5d:cc:FE:00:01"), Ok([0x70, 0x5d, 0xcc, 0xfe, 0, 1]));
        for wrong in
            ["", "70:5d:cc:fe:00", "70:5d:cc:fe:00:01:02", "70:5d:cc:fe:0:1", "70:5d:cc:fe:00:gg", "71:00:00:00:00:00"]
        {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }
}
