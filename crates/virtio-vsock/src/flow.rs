//! Credit: how many bytes each side of a connection may still send (virtio 1.2, 5.10.6.3).
//!
//! Both sides count bytes modulo 2^32 from zero at the connection's start. A receiver states its room and
//! how many bytes have left it; a sender never has more in flight than that room.

/// Bytes from the guest: what we promised, and whether it keeps to that.
#[derive(Debug)]
pub(crate) struct Receive {
    /// The room that we promised, in bytes; it never changes.
    capacity: u32,
    received: u32,
    /// Left our room, for the host's socket.
    forwarded: u32,
    /// The value of `forwarded` that the guest last saw.
    told: u32,
}

/// The guest sent more than it had credit for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overrun;

impl Receive {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { capacity, received: 0, forwarded: 0, told: 0 }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity
    }

    /// `length` bytes came. After success no more than the capacity is waiting.
    pub(crate) fn accept(&mut self, length: u32) -> Result<(), Overrun> {
        let waiting = self.received.wrapping_sub(self.forwarded);
        match waiting.checked_add(length) {
            Some(all) if all <= self.capacity => {
                self.received = self.received.wrapping_add(length);
                Ok(())
            }
            _ => Err(Overrun),
        }
    }

    /// `length` of the bytes that were waiting are gone.
    pub(crate) fn forward(&mut self, length: usize) {
        // No more than the capacity can have been waiting.
        self.forwarded = self.forwarded.wrapping_add(length as u32);
    }

    /// What waits is dropped.
    pub(crate) fn forward_all(&mut self) {
        self.forwarded = self.received;
    }

    /// Whether the guest should hear of new room without having asked: it sees less than half, and would
    /// see a quarter more. With nothing waiting, what the guest sees is then never below half; with
    /// something waiting, the host's reader decides, and more will follow.
    pub(crate) fn update_due(&self) -> bool {
        let seen_in_flight = self.received.wrapping_sub(self.told);
        let gain = self.forwarded.wrapping_sub(self.told);
        seen_in_flight > self.capacity / 2 && gain >= (self.capacity / 4).max(1)
    }

    /// The two fields of a header that is about to go to the guest.
    pub(crate) fn tell(&mut self) -> (u32, u32) {
        self.told = self.forwarded;
        (self.capacity, self.forwarded)
    }
}

/// Bytes to the guest: what it promised.
#[derive(Debug, Default)]
pub(crate) struct Send {
    sent: u32,
    capacity: u32,
    forwarded: u32,
}

impl Send {
    /// The guest's packet said this.
    pub(crate) fn update(&mut self, capacity: u32, forwarded: u32) {
        (self.capacity, self.forwarded) = (capacity, forwarded);
    }

    /// How many bytes may go. None when the guest claims to have forwarded what never came: that is more
    /// in flight than any room.
    pub(crate) fn credit(&self) -> u32 {
        self.capacity.saturating_sub(self.sent.wrapping_sub(self.forwarded))
    }

    /// `length` bytes went, no more than the credit.
    pub(crate) fn sent(&mut self, length: usize) {
        self.sent = self.sent.wrapping_add(length as u32);
    }
}

#[cfg(test)]
mod tests;
