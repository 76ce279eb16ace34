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

/// Puts a frame into as many buffers as it takes, or into one when the driver does not merge them. `hand` is
/// storage that is kept.
pub(crate) fn deliver(
    queue: &mut Queue,
    hand: &mut Vec<(Chain, u32)>,
    mut header: [u8; HEADER],
    frame: &[u8],
    mergeable: bool,
    most: usize,
) -> Result<Delivery, QueueError> {
    let length = HEADER + frame.len();
    let mut room = 0;
    while room < length {
        let Some(chain) = queue.pop()? else {
            while let Some((chain, _)) = hand.pop() {
                queue.undo_pop(chain);
            }
            return Ok(Delivery::NoRoom);
        };
        if chain.readable() > 0 || chain.writable() < HEADER {
            return Err(QueueError::Request("a receive buffer is read-only, or shorter than a header"));
        }
        let part = chain.writable().min(length - room);
        room += part;
        hand.push((chain, part as u32));
        if room < length && (!mergeable || hand.len() == most) {
            // Not the guest's next frame's fault: it goes on with that one.
            while let Some((chain, _)) = hand.pop() {
                queue.undo_pop(chain);
            }
            log::debug!("network: a frame of {} bytes does not fit the guest's buffers", frame.len());
            return Ok(Delivery::Done);
        }
    }
    header[NUM_BUFFERS..].copy_from_slice(&(hand.len() as u16).to_le_bytes());
    let mut rest = frame;
    for (i, (chain, part)) in hand.iter().enumerate() {
        let before = if i == 0 { HEADER } else { 0 };
        let (now, later) = rest.split_at((*part as usize - before).min(rest.len()));
        // Both fit: `part` is at most what the chain takes.
        let fits = (i > 0 || chain.write_at(0, &header)) && chain.write_at(before, now);
        debug_assert!(fits, "a receive buffer has shrunk");
        rest = later;
    }
    queue.push_together(hand.drain(..))?;
    Ok(Delivery::Done)
}
