//! A tap's link, route and neighbour, by the kernel's RTNETLINK (rtnetlink(7)).

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send, socket_with,
};
use vmm::net::filter::Mac;

use crate::network::addresses::Addresses;
use crate::network::host::{self, ROUTE_PROTOCOL};

// linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/neighbour.h.
const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const REPLACE: u16 = 0x100;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
const IFLA_ADDRESS: u16 = 1;
const IFLA_MTU: u16 = 4;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const IFF_UP: u32 = 1;
const NUD_PERMANENT: u16 = 0x80;
const TABLE_MAIN: u8 = 254;
const SCOPE_LINK: u8 = 253;
const TYPE_UNICAST: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Groups of messages that tell of links, and of forwarding that was switched (RTNLGRP_LINK, _IPV4_NETCONF).
const GROUPS: u32 = 1 | 1 << 23;

/// A network interface of this machine.
pub struct Link {
    socket: OwnedFd,
    index: u32,
}

impl Link {
    /// The interface of this name.
    pub fn new(name: &str) -> io::Result<Self> {
        let socket = host::socket()?;
        let index = rustix::net::netdevice::name_to_index(&socket, name)?;
        Ok(Self { socket, index })
    }

    /// A socket that becomes readable when links change.
    pub fn watch() -> io::Result<OwnedFd> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, GROUPS))?;
        Ok(socket)
    }

    /// Sets the tap up: its Ethernet address is the gateway's, the guest is behind it, and nobody needs to ask for
    /// the guest. It has no IP address, so that nothing of this machine listens there.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`: another route to one of these addresses is there. This can be called again with others.
    pub fn set_up(&self, addresses: &Addresses, mtu: u16) -> io::Result<()> {
        let no_address = nested(AF_INET6.into(), &nested(IFLA_INET6_ADDR_GEN_MODE, &[ADDR_GEN_MODE_NONE]));
        self.link(
            0,
            &[
                nested(IFLA_ADDRESS, &addresses.gateway_mac.0),
                nested(IFLA_MTU, &u32::from(mtu).to_ne_bytes()),
                nested(IFLA_AF_SPEC, &no_address),
            ],
        )?;
        self.link(IFF_UP, &[])?;
        let guests = [addresses.v4.map(|ends| ends.guest.into()), addresses.v6.map(|ends| ends.guest.into())];
        for guest in guests.into_iter().flatten() {
            self.route(guest)?;
            self.neighbour(guest, addresses.mac)?;
        }
        Ok(())
    }

    /// `ifinfomsg`: family, padding, type, index, flags, which of them.
    fn link(&self, flags: u32, attributes: &[Vec<u8>]) -> io::Result<()> {
        let body =
            [&[0; 4][..], &self.index.to_ne_bytes(), &flags.to_ne_bytes(), &flags.to_ne_bytes()].concat();
        call(&self.socket, RTM_NEWLINK, 0, &body, attributes)
    }

    /// `rtmsg`: family, lengths, TOS, table, protocol, scope, type, flags.
    fn route(&self, guest: IpAddr) -> io::Result<()> {
        let (family, length, scope) =
            if guest.is_ipv4() { (AF_INET, 32, SCOPE_LINK) } else { (AF_INET6, 128, 0) };
        let body = [family, length, 0, 0, TABLE_MAIN, ROUTE_PROTOCOL, scope, TYPE_UNICAST, 0, 0, 0, 0];
        let attributes = [nested(RTA_DST, &octets(guest)), nested(RTA_OIF, &self.index.to_ne_bytes())];
        call(&self.socket, RTM_NEWROUTE, CREATE | EXCL, &body, &attributes)
    }

    /// `ndmsg`: family, padding, index, state, flags, type.
    fn neighbour(&self, guest: IpAddr, mac: Mac) -> io::Result<()> {
        let family = if guest.is_ipv4() { AF_INET } else { AF_INET6 };
        let body = [
            &[family, 0, 0, 0][..],
            &self.index.to_ne_bytes(),
            &NUD_PERMANENT.to_ne_bytes(),
            &[0, TYPE_UNICAST],
        ]
        .concat();
        let attributes = [nested(NDA_DST, &octets(guest)), nested(NDA_LLADDR, &mac.0)];
        call(&self.socket, RTM_NEWNEIGH, CREATE | REPLACE, &body, &attributes)
    }
}

/// Whether there is an interface of this name; yes, when the kernel does not say. (Not by sysfs, which shows the
/// network namespace that it was mounted in.)
pub fn is_there(name: &str) -> bool {
    !Link::new(name).is_err_and(|e| e.raw_os_error() == Some(libc::ENODEV))
}

/// Removes an interface; one that is gone is no failure.
pub fn remove(name: &str) {
    if let Ok(Link { socket, index }) = Link::new(name) {
        let body = [&[0; 4][..], &index.to_ne_bytes(), &[0; 4], &[0; 4]].concat();
        let _ = call(&socket, RTM_DELLINK, 0, &body, &[]);
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// An attribute: its length, its type and its value, padded.
fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = [&(length as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// Sends a request and waits for the kernel's yes.
fn call(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8], attributes: &[Vec<u8>]) -> io::Result<()> {
    let attributes = attributes.concat();
    let length = 16 + body.len() + attributes.len();
    let mut request = Vec::with_capacity(length);
    request.extend((length as u32).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((REQUEST | ACK | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    request.extend(attributes);
    send(socket, &request, SendFlags::empty())?;
    let mut answer = [0; 4096];
    let (length, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
    let word = |at: usize| answer.get(at..at + 4).and_then(|bytes| bytes.first_chunk().copied());
    let is_verdict = answer.get(4..6) == Some(&NLMSG_ERROR.to_ne_bytes());
    let (true, Some(error)) = (length >= 20 && is_verdict, word(16).map(i32::from_ne_bytes)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error.saturating_neg())) }
}
