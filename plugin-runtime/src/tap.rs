//! The tap device that `get_net_config` hands to a plugin.
#![allow(unsafe_code, reason = "network interfaces are set up by ioctls on `struct ifreq`")]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use vmm_sys_util::ioctl::{ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_ior_nr, ioctl_iow_nr};

use crate::error::{Error, Result};

/// An Ethernet address.
pub type MacAddress = [u8; 6];

/// What a tap that this program makes is called: the kernel puts a number in place of `%d`.
const NEW_NAME: &str = "vmtap%d";

// `linux/if_tun.h`: the type is 'T'.
ioctl_iow_nr!(TUNSETIFF, 'T' as u32, 202, std::ffi::c_int);
ioctl_ior_nr!(TUNGETIFF, 'T' as u32, 210, std::ffi::c_uint);

/// A tap device, not blocking and without packet information, and what it is set to.
#[derive(Debug)]
pub struct Tap {
    device: OwnedFd,
    mac: MacAddress,
    address: Ipv4Addr,
    netmask: Ipv4Addr,
}

impl Tap {
    /// Makes a tap with these addresses, up, without vnet header. It needs `CAP_NET_ADMIN`.
    ///
    /// # Errors
    ///
    /// [`Error::SetUp`] names the step that was refused.
    pub fn create(address: Ipv4Addr, netmask: Ipv4Addr, mac: MacAddress) -> Result<Self> {
        let flags = libc::IFF_TAP | libc::IFF_NO_PI;
        let (device, name) = attach(NEW_NAME, flags)?;
        let socket = control_socket()?;
        let set = |what, request: libc::Ioctl, fill: &dyn Fn(&mut libc::ifreq)| {
            let mut ifreq = request_for(&name)?;
            fill(&mut ifreq);
            // SAFETY: every request here reads one `struct ifreq`.
            checked(what, unsafe { ioctl_with_ref(&socket, request, &ifreq) })
        };
        set("setting the tap's IPv4 address", libc::SIOCSIFADDR, &|ifreq| {
            ifreq.ifr_ifru.ifru_addr = socket_address(address);
        })?;
        set("setting the tap's netmask", libc::SIOCSIFNETMASK, &|ifreq| {
            ifreq.ifr_ifru.ifru_netmask = socket_address(netmask);
        })?;
        set("setting the tap's MAC address", libc::SIOCSIFHWADDR, &|ifreq| {
            ifreq.ifr_ifru.ifru_hwaddr = hardware_address(mac);
        })?;
        set("bringing the tap up", libc::SIOCSIFFLAGS, &|ifreq| {
            ifreq.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        })?;
        Ok(Self { device: device.into(), mac, address, netmask })
    }

    /// Opens the tap called `name`, with vnet header, as it is set up.
    ///
    /// # Errors
    ///
    /// [`Error::SetUp`] names the step that was refused.
    pub fn open(name: &str) -> Result<Self> {
        let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let (device, name) = attach(name, flags)?;
        Self::as_set_up(device.into(), &name)
    }

    /// Takes over a descriptor of a tap, as it is set up. It is made non-blocking, for all who share it.
    ///
    /// # Errors
    ///
    /// [`Error::SetUp`] names the step that was refused: for a descriptor that is no tap's, asking its name.
    pub fn from_fd(device: OwnedFd) -> Result<Self> {
        let mut ifreq = empty_request();
        // SAFETY: TUNGETIFF writes one `struct ifreq`.
        checked("asking the tap's name", unsafe { ioctl_with_mut_ref(&device, TUNGETIFF(), &mut ifreq) })?;
        let flags = rustix::fs::fcntl_getfl(&device).map_err(Error::set_up("reading the tap's flags"))?;
        rustix::fs::fcntl_setfl(&device, flags | rustix::fs::OFlags::NONBLOCK)
            .map_err(Error::set_up("making the tap non-blocking"))?;
        Self::as_set_up(device, &name_in(&ifreq))
    }

    fn as_set_up(device: OwnedFd, name: &str) -> Result<Self> {
        let socket = control_socket()?;
        let get = |request: libc::Ioctl| -> io::Result<libc::ifreq> {
            let mut ifreq = request_for(name).map_err(io::Error::other)?;
            // SAFETY: every request here reads and writes one `struct ifreq`.
            match unsafe { ioctl_with_mut_ref(&socket, request, &mut ifreq) } {
                0 => Ok(ifreq),
                _ => Err(io::Error::last_os_error()),
            }
        };
        // A tap in a bridge has no address of its own.
        let address_or_none = |request| match get(request) {
            // SAFETY: both requests for an address write this member.
            Ok(ifreq) => Ok(ipv4_in(unsafe { ifreq.ifr_ifru.ifru_addr })),
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(Ipv4Addr::UNSPECIFIED),
            Err(error) => Err(error),
        };
        let address = address_or_none(libc::SIOCGIFADDR).map_err(Error::set_up("asking the tap's IPv4 address"))?;
        let netmask = address_or_none(libc::SIOCGIFNETMASK).map_err(Error::set_up("asking the tap's netmask"))?;
        let mac = get(libc::SIOCGIFHWADDR).map_err(Error::set_up("asking the tap's MAC address"))?;
        // SAFETY: SIOCGIFHWADDR wrote this member.
        let mac = mac_in(unsafe { mac.ifr_ifru.ifru_hwaddr });
        Ok(Self { device, mac, address, netmask })
    }

    /// The host's MAC address on it.
    pub fn mac(&self) -> MacAddress {
        self.mac
    }

    /// The host's IPv4 address on it; 0.0.0.0 where it has none.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The netmask of that address.
    pub fn netmask(&self) -> Ipv4Addr {
        self.netmask
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Opens the tun device and attaches it to the interface called `name`, which is made if it is not there: the device, and
/// the interface's true name.
fn attach(name: &str, flags: libc::c_int) -> Result<(File, String)> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .map_err(Error::set_up("opening /dev/net/tun"))?;
    let mut ifreq = request_for(name)?;
    ifreq.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`.
    checked("attaching to the tap", unsafe { ioctl_with_mut_ref(&device, TUNSETIFF(), &mut ifreq) })?;
    Ok((device, name_in(&ifreq)))
}

fn control_socket() -> Result<OwnedFd> {
    socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(Error::set_up("making a socket to set up the tap"))
}

fn checked(what: &'static str, returned: libc::c_int) -> Result<()> {
    if returned < 0 { Err(Error::SetUp { what, source: io::Error::last_os_error() }) } else { Ok(()) }
}

fn empty_request() -> libc::ifreq {
    // SAFETY: a plain structure of the kernel's, for which zeros are a value.
    unsafe { std::mem::zeroed() }
}

/// A request about the interface called `name`.
fn request_for(name: &str) -> Result<libc::ifreq> {
    let mut ifreq = empty_request();
    // The last byte stays 0.
    if name.len() >= ifreq.ifr_name.len() {
        return Err(Error::SetUp { what: "naming the tap", source: io::ErrorKind::InvalidFilename.into() });
    }
    for (to, from) in ifreq.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(ifreq)
}

fn name_in(ifreq: &libc::ifreq) -> String {
    let bytes: Vec<u8> = ifreq.ifr_name.iter().map(|&byte| byte as u8).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The address as `struct sockaddr_in`, in the bytes of the `struct sockaddr` that requests hold: port, then address.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().skip(2).zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::AF_INET as libc::sa_family_t, sa_data: data }
}

fn ipv4_in(address: libc::sockaddr) -> Ipv4Addr {
    let [_, _, a, b, c, d, ..] = address.sa_data.map(|byte| byte as u8);
    Ipv4Addr::new(a, b, c, d)
}

fn hardware_address(mac: MacAddress) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().zip(mac) {
        *to = from as libc::c_char;
    }
    libc::sockaddr { sa_family: libc::ARPHRD_ETHER, sa_data: data }
}

fn mac_in(address: libc::sockaddr) -> MacAddress {
    let [a, b, c, d, e, f, ..] = address.sa_data.map(|byte| byte as u8);
    [a, b, c, d, e, f]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_structures() {
        let address = Ipv4Addr::new(100, 115, 92, 255);
        assert_eq!(ipv4_in(socket_address(address)), address);
        let mac = [0xfe, 0, 0x7f, 0x80, 0xff, 1];
        assert_eq!(mac_in(hardware_address(mac)), mac);
    }

    #[test]
    fn a_name_has_at_most_15_bytes() {
        assert_eq!(name_in(&request_for("a-name-of-15-by").unwrap()), "a-name-of-15-by");
        assert!(request_for("a-name-of-16-byt").is_err());
    }
}
