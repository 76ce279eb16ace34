//! What a network device sends to and receives from.

mod stream;
mod tap;

use std::{io, os::fd::BorrowedFd};

use virtio::Chain;

use crate::{HEADER, Offloads};

pub use stream::PasstStream;
pub use tap::{Tap, TapError};

/// A frame of the guest's that the filter let pass.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// The checked header, then the first bytes of the frame, as they were judged.
    pub head: &'a [u8],
    /// Holds the rest of the frame, ...
    pub chain: &'a Chain,
    /// ... from here in its readable part, ...
    pub offset: usize,
    /// ... so many bytes.
    pub rest: usize,
}

/// A frame for the guest.
#[derive(Clone, Copy, Debug)]
pub struct Incoming<'a> {
    /// As virtio 1.2, 5.1.6 has it, without the number of buffers.
    pub header: [u8; HEADER],
    /// From the Ethernet header on.
    pub frame: &'a [u8],
}

/// One queue pair's way to the network. All methods run on the device's thread, and none of them waits.
pub trait Backend: Send {
    /// Whoever started it says when it has ended, and why, so that the device need not.
    const END_IS_TOLD: bool;

    /// What it can do for frames that it gets, and asks of those that it gives.
    fn offloads(&self) -> Offloads;

    /// The driver has started, and takes frames with these offloads undone.
    ///
    /// # Errors
    ///
    /// The host refuses; the device then needs a reset.
    fn start(&mut self, guest: Offloads) -> io::Result<()>;

    /// Becomes readable when there may be frames again after [`peek`](Self::peek) had none, and writable when
    /// there may be room again after [`send`](Self::send) had none.
    fn descriptor(&self) -> BorrowedFd<'_>;

    /// Takes a frame; it may stay here until [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// `WouldBlock`, and the frame was not taken, when there is no room. With any other error the frame is
    /// lost.
    fn send(&mut self, frame: Outgoing<'_>) -> io::Result<()>;

    /// Sends what is still here. False when some of it finds no room: it goes when the descriptor becomes
    /// writable and this is called again.
    ///
    /// # Errors
    ///
    /// The back end's end.
    fn flush(&mut self) -> io::Result<bool>;

    /// The next frame. It stays the next one until [`consume`](Self::consume).
    ///
    /// # Errors
    ///
    /// `WouldBlock` when there is none. `UnexpectedEof` when there will never be one again. With any other
    /// error a frame was lost.
    fn peek(&mut self) -> io::Result<Incoming<'_>>;

    /// The frame that was looked at is done with.
    fn consume(&mut self);

    /// Receives the next frame with its header: `head` full, and what is more into the writable parts of `buffers`,
    /// from `head`'s length on. Returns how many bytes it has. None: it does not do that, or not now, or there is no
    /// room for the longest frame.
    ///
    /// # Errors
    ///
    /// As [`peek`](Self::peek).
    fn receive(&mut self, _head: &mut [u8], _buffers: &[Chain]) -> Option<io::Result<usize>> {
        None
    }
}
