//! The network.

use crate::abi::NetConfig;
use crate::connection::Connection;
use crate::errno::Result;
use crate::export::export;
use crate::pointers::{Handle, Out};
use std::os::fd::IntoRawFd;

export! {
    fn crosvm_net_get_config(connection: Handle<Connection>, out: Out<NetConfig>) -> Result<()> {
        let out = out.check()?;
        let config = connection.sdk()?.net_config()?;
        out.set(NetConfig {
            tap_fd: config.tap.into_raw_fd(),
            host_ip: config.host_ip.octets(),
            netmask: config.netmask.octets(),
            host_mac_address: config.host_mac,
            padding: [0; 2],
        });
        Ok(())
    }
}
