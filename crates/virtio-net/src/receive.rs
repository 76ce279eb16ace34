//! Frames into the guest's buffers.

use virtio::{Chain, Queue, QueueError};

use crate::HEADER;

/// Where the header says how many buffers a frame takes.
const NUM_BUFFERS: usize = 10;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Done,
    /// The driver has not given enough buffers; it notifies when there are more.
    NoRoom,
}

/// Puts a frame into as many buffers as it takes, or into one when the driver does not merge them. `hand` holds
/// buffers that were taken from the queue before, for a frame that takes more: none is taken twice.
pub(crate) fn deliver(
    queue: &mut Queue,
    hand: &mut Vec<Chain>,
    mut header: [u8; HEADER],
    frame: &[u8],
    mergeable: bool,
    most: usize,
) -> Result<Delivery, QueueError> {
    let length = HEADER + frame.len();
    let (mut room, mut count) = (0, 0);
    while room < length {
        if count == hand.len() {
            let Some(chain) = queue.pop()? else { return Ok(Delivery::NoRoom) };
            if chain.readable() > 0 || chain.writable() < HEADER {
                return Err(QueueError::Request("a receive buffer is read-only, or shorter than a header"));
            }
            hand.push(chain);
        }
        room += hand[count].writable();
        count += 1;
        if room < length && (!mergeable || count == most) {
            // Not the guest's next frame's fault: it goes on with that one.
            log::debug!("network: a frame of {} bytes does not fit the guest's buffers", frame.len());
            return Ok(Delivery::Done);
        }
    }
    header[NUM_BUFFERS..].copy_from_slice(&(count as u16).to_le_bytes());
    let mut rest = frame;
    for (i, chain) in hand[..count].iter().enumerate() {
        let before = if i == 0 { HEADER } else { 0 };
        let (now, later) = rest.split_at((chain.writable() - before).min(rest.len()));
        // Both fit: it is no more than what the chain takes.
        let fits = (i > 0 || chain.write_at(0, &header)) && chain.write_at(before, now);
        debug_assert!(fits, "a receive buffer has shrunk");
        rest = later;
    }
    let mut left = length;
    queue.push_together(hand.drain(..count).map(|chain| {
        let part = chain.writable().min(left);
        left -= part;
        (chain, part as u32)
    }))?;
    Ok(Delivery::Done)
}
