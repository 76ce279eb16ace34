//! Frames into the guest's buffers.

use std::io;

use virtio::{Chain, Queue, QueueError};

use crate::{
    Backend, HEADER, MAX_FRAME,
    filter::{Filter, HEAD},
};

/// Where the header says how many buffers a frame takes.
const NUM_BUFFERS: usize = 10;

/// After a frame of more bytes the next one is read straight into the guest's buffers: for shorter ones it costs more
/// to offer room for the longest than to copy.
const LONG: usize = 8 << 10;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    Done,
    /// The driver has not given enough buffers; it notifies when there are more.
    NoRoom,
}

/// A receive queue, and what is taken out of it.
pub(crate) struct Receiver<'a> {
    pub queue: &'a mut Queue,
    /// Buffers that were taken from the queue before, for a frame that takes more: none is taken twice.
    pub hand: &'a mut Vec<Chain>,
    /// The last frame was a long one.
    pub long: &'a mut bool,
    /// The driver takes a frame in several buffers.
    pub mergeable: bool,
    /// The most buffers of a frame.
    pub most: usize,
}

impl Receiver<'_> {
    /// Puts a frame into as many buffers as it takes, or into one when the driver does not merge them.
    pub(crate) fn deliver(&mut self, mut header: [u8; HEADER], frame: &[u8]) -> Result<Delivery, QueueError> {
        let length = HEADER + frame.len();
        *self.long = length > LONG;
        let (mut room, mut count) = (0, 0);
        while room < length {
            if count == self.hand.len() && !self.take_buffer()? {
                return Ok(Delivery::NoRoom);
            }
            room += self.hand[count].writable();
            count += 1;
            if room < length && (!self.mergeable || count == self.most) {
                // Not the guest's next frame's fault: it goes on with that one.
                log::debug!("network: a frame of {} bytes does not fit the guest's buffers", frame.len());
                return Ok(Delivery::Done);
            }
        }
        header[NUM_BUFFERS..].copy_from_slice(&(count as u16).to_le_bytes());
        let mut rest = frame;
        for (i, chain) in self.hand[..count].iter().enumerate() {
            let before = if i == 0 { HEADER } else { 0 };
            let (now, later) = rest.split_at((chain.writable() - before).min(rest.len()));
            // Both fit: it is no more than what the chain takes.
            let fits = (i > 0 || chain.write_at(0, &header)) && chain.write_at(before, now);
            debug_assert!(fits, "a receive buffer has shrunk");
            rest = later;
        }
        self.hand_over(count, length)?;
        Ok(Delivery::Done)
    }

    /// Takes a long frame straight out of the back end, past a copy of it here, and hands it over if the filter lets
    /// it: that judges the first bytes in memory of the device's own, and what the guest gets of these is that very
    /// copy. What is behind them already lies in the guest's buffers then; a frame that is refused leaves bytes there
    /// that are not handed over, of what this machine sends to this guest alone.
    ///
    /// None, and nothing happened: it is not the way for this frame.
    pub(crate) fn take_long(
        &mut self,
        backend: &mut impl Backend,
        filter: &Filter,
    ) -> Result<Option<io::Result<()>>, QueueError> {
        if !*self.long || !self.mergeable {
            return Ok(None);
        }
        let mut room: usize = self.hand.iter().map(Chain::writable).sum();
        while room < HEADER + MAX_FRAME && self.hand.len() < self.most && self.take_buffer()? {
            room += self.hand.last().map_or(0, Chain::writable);
        }
        let mut head = [0; HEADER + HEAD];
        if self.hand.first().is_none_or(|first| first.writable() < head.len()) {
            return Ok(None);
        }
        let length = match backend.receive(&mut head, self.hand) {
            None => return Ok(None),
            Some(Err(e)) => return Ok(Some(Err(e))),
            Some(Ok(length)) => length,
        };
        *self.long = length > LONG;
        let head = &mut head[..length.min(HEADER + HEAD)];
        if filter.admit(&head[HEADER..], length - HEADER) {
            let (mut room, mut count) = (0, 0);
            while room < length && count < self.hand.len() {
                room += self.hand[count].writable();
                count += 1;
            }
            head[NUM_BUFFERS..HEADER].copy_from_slice(&(count as u16).to_le_bytes());
            let fits = self.hand[0].write_at(0, head);
            debug_assert!(fits, "a receive buffer has shrunk");
            self.hand_over(count, length)?;
        }
        Ok(Some(Ok(())))
    }

    /// Takes one more buffer in hand; false: there is none.
    fn take_buffer(&mut self) -> Result<bool, QueueError> {
        let Some(chain) = self.queue.pop()? else { return Ok(false) };
        if chain.readable() > 0 || chain.writable() < HEADER {
            return Err(QueueError::Request("a receive buffer is read-only, or shorter than a header"));
        }
        self.hand.push(chain);
        Ok(true)
    }

    /// Gives the driver the first buffers in hand, with so many bytes in all.
    fn hand_over(&mut self, count: usize, length: usize) -> Result<(), QueueError> {
        let mut left = length;
        self.queue.push_together(self.hand.drain(..count).map(|chain| {
            let part = chain.writable().min(left);
            left -= part;
            (chain, part as u32)
        }))
    }
}
