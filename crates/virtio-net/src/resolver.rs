//! Between the device and whoever answers for names, on a socket that keeps messages apart
//! (`SOCK_SEQPACKET`). Both ends belong to the host; the guest's bytes are only in [`Message::Datagram`]s.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

use crate::filter::{Cidr, Query};

/// The longest question and answer, in bytes.
pub const MAX_PAYLOAD: usize = 4096;

/// No more of a message is read.
const MAX_MESSAGE: usize = 64 << 10;

/// The most addresses and networks in one [`Message::Host`].
pub const MAX_HOST: usize = 3600;

const DATAGRAM: u8 = 1;
const OPEN: u8 = 2;
const HOST: u8 = 3;
const REFUSED: u8 = 4;

/// The longest text of a [`Message::Refused`], in bytes.
const MAX_TEXT: usize = 512;

/// A message, either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// To the resolver a question, from it an answer: a DNS message.
    Datagram {
        /// Who asked.
        query: Query,
        /// The DNS message, at most [`MAX_PAYLOAD`] bytes.
        payload: Vec<u8>,
    },
    /// From the resolver: a name that the guest may use has this address.
    Open {
        /// The address.
        address: IpAddr,
        /// The TCP or UDP port that is open; none: all.
        port: Option<u16>,
        /// For how long.
        time: Duration,
    },
    /// From the resolver: the host's addresses and networks are these now, at most [`MAX_HOST`] in all.
    Host {
        /// Its own addresses, or ranges of them.
        addresses: Vec<Cidr>,
        /// Networks that it is on.
        on_link: Vec<Cidr>,
    },
    /// From the resolver: a question was not answered, in words for the journal. Of a longer text the end is cut off.
    Refused {
        /// What, and why.
        text: String,
    },
}

/// One end.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
    /// Where a message is read to.
    buffer: Box<[u8]>,
}

impl Channel {
    /// Both ends. None of them waits.
    ///
    /// # Errors
    ///
    /// No more descriptors.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::new(one), Self::new(other)))
    }

    fn new(socket: OwnedFd) -> Self {
        Self { socket, buffer: vec![0; MAX_MESSAGE].into() }
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when too much waits there already; the other end's end; a message that is too long.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(64);
        match message {
            Message::Datagram { query, payload } => {
                bytes.extend([DATAGRAM, u8::from(query.v6)]);
                bytes.extend(query.port.to_be_bytes());
                bytes.extend(payload);
                if payload.len() > MAX_PAYLOAD {
                    return Err(io::ErrorKind::InvalidInput.into());
                }
            }
            Message::Open { address, port, time } => {
                bytes.extend([OPEN, u8::from(port.is_some())]);
                bytes.extend(port.unwrap_or_default().to_be_bytes());
                bytes.extend(u32::try_from(time.as_secs()).unwrap_or(u32::MAX).to_be_bytes());
                put(&mut bytes, *address, 0);
            }
            Message::Host { addresses, on_link } => {
                let all = addresses.len() + on_link.len();
                let (true, Ok(count)) = (all <= MAX_HOST, u16::try_from(addresses.len())) else {
                    return Err(io::ErrorKind::InvalidInput.into());
                };
                bytes.push(HOST);
                bytes.extend(count.to_be_bytes());
                for range in addresses.iter().chain(on_link) {
                    put(&mut bytes, range.address(), range.length());
                }
            }
            Message::Refused { text } => {
                bytes.push(REFUSED);
                bytes.extend(text.bytes().take(MAX_TEXT));
            }
        }
        send(&self.socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// The next message.
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none, `UnexpectedEof` when the other end is closed, `InvalidData` for one
    /// that can't be read.
    pub fn receive(&mut self) -> io::Result<Message> {
        let (_, length) = recv(&self.socket, &mut *self.buffer, RecvFlags::DONTWAIT)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        decode(&self.buffer[..length.min(MAX_MESSAGE)]).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Version, prefix length, and the address in 16 bytes.
const ADDRESS: usize = 18;

fn put(bytes: &mut Vec<u8>, address: IpAddr, length: u8) {
    let (version, raw) = match address {
        IpAddr::V4(address) => (4, u128::from(address.to_bits())),
        IpAddr::V6(address) => (6, address.to_bits()),
    };
    bytes.extend([version, length]);
    bytes.extend(raw.to_be_bytes());
}

fn get(bytes: &[u8]) -> Option<(IpAddr, u8)> {
    let ([version, length], raw) = bytes.split_first_chunk()?;
    let raw = u128::from_be_bytes(raw.try_into().ok()?);
    let address = match version {
        4 => Ipv4Addr::from(u32::try_from(raw).ok()?).into(),
        6 => Ipv6Addr::from(raw).into(),
        _ => return None,
    };
    Some((address, *length))
}

fn decode(bytes: &[u8]) -> Option<Message> {
    match *bytes {
        [DATAGRAM, v6, high, low, ref payload @ ..] if payload.len() <= MAX_PAYLOAD => {
            Some(Message::Datagram {
                query: Query { v6: v6 != 0, port: u16::from_be_bytes([high, low]) },
                payload: payload.to_vec(),
            })
        }
        [OPEN, some, high, low, a, b, c, d, ref address @ ..] => Some(Message::Open {
            address: get(address)?.0,
            port: (some != 0).then_some(u16::from_be_bytes([high, low])),
            time: Duration::from_secs(u32::from_be_bytes([a, b, c, d]).into()),
        }),
        [HOST, high, low, ref rest @ ..] => {
            let range = |bytes| get(bytes).map(|(address, length)| Cidr::new(address, length));
            let mut addresses = rest.chunks(ADDRESS).map(range).collect::<Option<Vec<_>>>()?;
            let count = u16::from_be_bytes([high, low]).into();
            let on_link = (count <= addresses.len()).then(|| addresses.split_off(count))?;
            Some(Message::Host { addresses, on_link })
        }
        [REFUSED, ref text @ ..] if text.len() <= MAX_TEXT => {
            let text = String::from_utf8_lossy(text);
            // It comes to be shown on terminals.
            let plain = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
            Some(Message::Refused { text: text.chars().map(plain).collect() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
