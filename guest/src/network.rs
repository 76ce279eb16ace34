//! The network interface: its addresses, its routes, and pings for everybody. The host says what they are;
//! no DHCP client is needed, and nothing is waited for.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use agent_proto::{Ends, Network};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netdevice, recv, send, socket_with,
};

/// What the kernel calls the first Ethernet interface.
const INTERFACE: &str = "eth0";

/// How often, and how far apart, the interface is looked for: a stock kernel's module may bind its device
/// after the call that loaded it.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(10);

// linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h.
const NLMSG_ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;
const IFF_UP: u32 = 1;

/// Everybody may ping: the program's own right to (set-uid, or a capability) is not there in a guest.
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";

/// Gives the interface its addresses, and a default route for each version of IP.
///
/// # Errors
///
/// The first one that the kernel has; what could be done is done.
pub fn set_up(network: &Network) -> Result<(), Errno> {
    // Protocol 0 of this family is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let index = interface(&socket)?;
    let mut messages = Messages::default();
    messages.up(index);
    for ends in &network.ends {
        messages.address(index, ends);
    }
    for ends in &network.ends {
        messages.default_route(index, ends);
    }
    let result = messages.exchange(&socket);
    let groups = rustix::fs::open(PING_GROUPS, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    if let Ok(file) = groups {
        // A kernel that refuses leaves ping to root.
        let _ = rustix::io::write(file, b"0 2147483647");
    }
    result
}

fn interface(socket: &OwnedFd) -> Result<u32, Errno> {
    let mut tries = 0;
    loop {
        match netdevice::name_to_index(socket, INTERFACE) {
            Err(Errno::NODEV) if tries < TRIES => std::thread::sleep(PAUSE),
            other => return other,
        }
        tries += 1;
    }
}

/// Requests to the kernel, one after the other in one datagram.
#[derive(Default)]
struct Messages {
    bytes: Vec<u8>,
    count: u32,
}

impl Messages {
    fn up(&mut self, index: u32) {
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        self.push(RTM_NEWLINK, 0, &body);
    }

    /// Without asking the link whether the address is free: there is nobody else on it, and IPv6 would wait a
    /// second.
    fn address(&mut self, index: u32, ends: &Ends) {
        let mut body = vec![family(ends.guest), ends.prefix, IFA_F_NODAD, 0];
        body.extend(index.to_ne_bytes());
        attribute(&mut body, IFA_LOCAL, &octets(ends.guest));
        attribute(&mut body, IFA_ADDRESS, &octets(ends.guest));
        self.push(RTM_NEWADDR, CREATE | REPLACE, &body);
    }

    fn default_route(&mut self, index: u32, ends: &Ends) {
        let mut body = vec![family(ends.gateway), 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST];
        body.extend([0; 4]);
        attribute(&mut body, RTA_GATEWAY, &octets(ends.gateway));
        attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        self.push(RTM_NEWROUTE, CREATE | REPLACE, &body);
    }

    fn push(&mut self, kind: u16, flags: u16, body: &[u8]) {
        self.count += 1;
        self.bytes.extend((16 + body.len() as u32).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((REQUEST | ACK | flags).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend([0; 4]);
        self.bytes.extend(body);
    }

    fn exchange(&self, socket: &OwnedFd) -> Result<(), Errno> {
        send(socket, &self.bytes, SendFlags::empty())?;
        let mut result = Ok(());
        let mut left = self.count;
        while left > 0 {
            let mut answer = [0; 4096];
            let (length, _) = recv(socket, &mut answer[..], RecvFlags::empty())?;
            for error in errors(&answer[..length]) {
                left = left.saturating_sub(1);
                if result.is_ok() && error != 0 {
                    result = Err(Errno::from_raw_os_error(-error));
                }
            }
        }
        result
    }
}

/// The error numbers of the acknowledgements in a datagram, negative or zero.
fn errors(mut answer: &[u8]) -> Vec<i32> {
    let mut found = Vec::new();
    while let Some((length, rest)) = answer.split_first_chunk() {
        let length = u32::from_ne_bytes(*length) as usize;
        let kind = rest.first_chunk().map(|kind| u16::from_ne_bytes(*kind));
        if let (Some(NLMSG_ERROR), Some(error)) = (kind, answer.get(16..20).and_then(|e| e.first_chunk())) {
            found.push(i32::from_ne_bytes(*error));
        }
        // A length of zero would never end.
        answer = answer.get(length.max(16).next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    family.as_raw() as u8
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_kernels_form() {
        let mut messages = Messages::default();
        let ends = Ends { guest: [10, 1, 2, 2].into(), gateway: [10, 1, 2, 1].into(), prefix: 30 };
        messages.address(2, &ends);
        assert_eq!(messages.bytes[..8], [40, 0, 0, 0, 20, 0, 5, 5]);
        assert_eq!(messages.bytes[16..24], [2, 30, 2, 0, 2, 0, 0, 0]);
        assert_eq!(messages.bytes[24..32], [8, 0, 2, 0, 10, 1, 2, 2]);
        let first = messages.bytes.len();
        messages.default_route(2, &ends);
        assert_eq!(messages.bytes[first..first + 4], [44, 0, 0, 0]);
        assert_eq!(messages.bytes.len(), first + 44);
    }

    #[test]
    fn acknowledgements_are_told_from_other_messages_and_end() {
        let ack = |error: i32| {
            let mut message = vec![36, 0, 0, 0, 2, 0, 0, 0];
            message.extend([0; 8]);
            message.extend(error.to_ne_bytes());
            message.extend([0; 16]);
            message
        };
        assert_eq!(errors(&[ack(0), ack(-95)].concat()), [0, -95]);
        assert_eq!(errors(&[0; 64]), []);
        assert_eq!(errors(&ack(-1)[..18]), []);
    }
}
