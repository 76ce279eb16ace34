//! The header of every packet on the receive and transmit queues (virtio 1.2, 5.10.6).
//!
//! rust-vmm's `virtio-vsock` crate has a packet type too, but ties it to `virtio_queue::DescriptorChain`
//! and to a slice of guest memory for the payload. Our chains are checked once, and their payloads go to
//! and from sockets without such a slice; what is left is these 44 bytes.

/// The size of a header in bytes.
pub(crate) const HEADER_SIZE: usize = 44;

/// The most bytes of payload that a packet may carry: what Linux sends at once.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;

/// The context ID of the host (5.10.4).
pub(crate) const HOST_CID: u64 = 2;

/// The one socket type that is served (5.10.6: VIRTIO_VSOCK_TYPE_STREAM).
pub(crate) const STREAM: u16 = 1;

/// In a SHUTDOWN's flags: the sender will receive no more (5.10.6.6).
pub(crate) const SHUTDOWN_RECEIVE: u32 = 1;

/// In a SHUTDOWN's flags: the sender will send no more.
pub(crate) const SHUTDOWN_SEND: u32 = 2;

/// What a packet is for (5.10.6: VIRTIO_VSOCK_OP_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    pub(crate) fn from_number(number: u16) -> Option<Self> {
        use Op::*;
        [Request, Response, Reset, Shutdown, Data, CreditUpdate, CreditRequest]
            .into_iter()
            .find(|op| *op as u16 == number)
    }
}

/// A packet's header, field for field; numbers are little endian in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub source_cid: u64,
    pub destination_cid: u64,
    pub source_port: u32,
    pub destination_port: u32,
    /// Bytes of payload.
    pub length: u32,
    pub kind: u16,
    /// An [`Op`], unless the guest wrote something else.
    pub op: u16,
    pub flags: u32,
    /// The sender's room for this connection's bytes, in all.
    pub buffer: u32,
    /// How many of this connection's bytes have left that room, modulo 2^32.
    pub forwarded: u32,
}

impl Header {
    pub(crate) fn from_bytes(raw: &[u8; HEADER_SIZE]) -> Self {
        let mut rest = &raw[..];
        Self {
            source_cid: u64::from_le_bytes(take(&mut rest)),
            destination_cid: u64::from_le_bytes(take(&mut rest)),
            source_port: u32::from_le_bytes(take(&mut rest)),
            destination_port: u32::from_le_bytes(take(&mut rest)),
            length: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buffer: u32::from_le_bytes(take(&mut rest)),
            forwarded: u32::from_le_bytes(take(&mut rest)),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; HEADER_SIZE] {
        let mut raw = [0; HEADER_SIZE];
        let mut rest = &mut raw[..];
        put(&mut rest, &self.source_cid.to_le_bytes());
        put(&mut rest, &self.destination_cid.to_le_bytes());
        put(&mut rest, &self.source_port.to_le_bytes());
        put(&mut rest, &self.destination_port.to_le_bytes());
        put(&mut rest, &self.length.to_le_bytes());
        put(&mut rest, &self.kind.to_le_bytes());
        put(&mut rest, &self.op.to_le_bytes());
        put(&mut rest, &self.flags.to_le_bytes());
        put(&mut rest, &self.buffer.to_le_bytes());
        put(&mut rest, &self.forwarded.to_le_bytes());
        raw
    }

    /// The reset that answers this packet, whoever it was for: its addresses, turned round.
    pub(crate) fn refusal(&self) -> Self {
        Self {
            source_cid: self.destination_cid,
            destination_cid: self.source_cid,
            source_port: self.destination_port,
            destination_port: self.source_port,
            kind: self.kind,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }
}

/// The next `N` bytes. The fields' sizes add up to a header's.
fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
    let mut field = [0; N];
    if let Some((first, rest)) = from.split_first_chunk::<N>() {
        field = *first;
        *from = rest;
    }
    field
}

fn put(to: &mut &mut [u8], field: &[u8]) {
    if let Some((first, rest)) = std::mem::take(to).split_at_mut_checked(field.len()) {
        first.copy_from_slice(field);
        *to = rest;
    }
}

#[cfg(test)]
mod tests;
