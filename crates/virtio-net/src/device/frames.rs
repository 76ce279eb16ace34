//! One frame, or one back end's frames, between a queue and a back end.

use std::io;

use virtio::{Chain, QueueError};

use super::{TURN, UDP_HEADER};
use crate::{
    Backend, HEADER, Incoming, Offloads, Outgoing,
    filter::{Filter, HEAD, Packet, Query},
    header::checked,
    receive::{Delivery, Receiver},
    resolver::{Channel, MAX_PAYLOAD, Message},
};

/// Gives the guest what one back end has for it. True: there may be more, after others had their turn.
pub(super) fn take_in<B: Backend>(
    backend: &mut B,
    filter: &Filter,
    readable: &mut bool,
    ended: &mut bool,
    mut receiver: Receiver<'_>,
) -> Result<bool, QueueError> {
    let mut left = TURN;
    while *readable && !*ended {
        let taken = match receiver.take_long(backend, filter)? {
            Some(taken) => taken,
            None => match backend.peek() {
                Ok(Incoming { header, frame }) => {
                    if filter.admit(&frame[..frame.len().min(HEAD)], frame.len())
                        && receiver.deliver(header, frame)? == Delivery::NoRoom
                    {
                        // The driver notifies when there is room.
                        return Ok(false);
                    }
                    backend.consume();
                    Ok(())
                }
                Err(e) => Err(e),
            },
        };
        match taken {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => *readable = false,
            Err(e) if ends(&e) => {
                *ended = true;
                let level = if B::END_IS_TOLD { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "the virtual machine has lost its network, and its link is down: {e}");
            }
            Err(e) => log::debug!("network: a frame could not be received: {e}"),
        }
        left -= 1;
        if left == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The error says that there will never be a frame again.
fn ends(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// Sends a packet: the part of it that was judged from `head`, the rest from the chain. False, and nothing
/// sent, when its header asks for what can't be.
pub(super) fn forward(
    backend: &mut impl Backend,
    head: &mut [u8],
    chain: &Chain,
    packet: &Packet,
    agreed: Offloads,
) -> io::Result<bool> {
    let Some((raw, _)) = head.split_first_chunk_mut::<HEADER>() else { return Ok(false) };
    let Some(header) = checked(raw, packet, agreed) else { return Ok(false) };
    *raw = header;
    let judged = head.len().min(HEADER + packet.end);
    let rest = HEADER + packet.end - judged;
    backend.send(Outgoing { head: &head[..judged], chain, offset: judged, rest })?;
    Ok(true)
}

/// Hands a question to the resolver; one that finds no room is asked again by the guest.
pub(super) fn ask(resolver: Option<&Channel>, chain: &Chain, packet: &Packet, query: Query) {
    let Some(resolver) = resolver else { return };
    let at = packet.offset + UDP_HEADER;
    let length = packet.end.saturating_sub(at);
    if length > MAX_PAYLOAD {
        return;
    }
    let mut payload = vec![0; length];
    if chain.read_at(HEADER + at, &mut payload) {
        let sent = resolver.send(&Message::Datagram { query, payload });
        if let Err(e) = sent {
            log::debug!("network: a question for a name was dropped: {e}");
        }
    }
}
