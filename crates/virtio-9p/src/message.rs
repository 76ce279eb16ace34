//! A message in a descriptor chain, as the server sees it.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use ninep::{
    Data, Reply, Server,
    wire::{HEADER, WRITE_HEADER, kind},
};
use virtio::Chain;

/// Where a message says what it is: after `size[4]`, before `tag[2]`.
const KIND: usize = 4;

/// Files lie in the page cache in pieces of a power of two, and of at least this many bytes.
const PAGE: u64 = 4096;

/// What the device must know of a message before it is served; all zero, which is no request, for one that is too
/// short.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub kind: u8,
    pub tag: u16,
    /// Of a Tflush: the request that it is about.
    pub old_tag: u16,
}

impl Head {
    pub fn of(chain: &Chain) -> Self {
        let mut bytes = [0; HEADER + 2];
        let length = bytes.len().min(chain.readable());
        if length < HEADER || !chain.read_at(0, &mut bytes[..length]) {
            return Self::default();
        }
        let [.., tag_low, tag_high, old_low, old_high] = bytes;
        Self {
            kind: bytes[KIND],
            tag: u16::from_le_bytes([tag_low, tag_high]),
            old_tag: u16::from_le_bytes([old_low, old_high]),
        }
    }
}

/// What is in the place for a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Its length; zero: there is none.
    pub length: usize,
    /// It says that the request failed.
    pub failed: bool,
}

/// Serves the request in a chain. `request` is a place for it.
pub(crate) fn serve(server: &Server, chain: &Chain, request: &mut Vec<u8>) -> Outcome {
    let mut answer = Answer { chain, failed: false };
    let length = serve_to(server, &mut answer, request);
    Outcome { length, failed: answer.failed || length == 0 }
}

fn serve_to(server: &Server, answer: &mut Answer, request: &mut Vec<u8>) -> usize {
    let chain = answer.chain;
    let mut head = [0; WRITE_HEADER];
    if chain.readable() >= WRITE_HEADER && chain.read_at(0, &mut head) && head[KIND] == kind::TWRITE {
        // The driver can change its memory meanwhile: from here on the copy counts.
        return server.serve_write(&head, &Written(chain), answer);
    }
    if take(server, chain, request) { server.serve(request, answer) } else { 0 }
}

/// As [`serve`], if that needs no wait for the host's disk to read a file; otherwise nothing is done.
pub(crate) fn serve_at_once(server: &Server, chain: &Chain, request: &mut Vec<u8>) -> Option<Outcome> {
    if !take(server, chain, request) {
        return Some(Outcome { length: 0, failed: true });
    }
    let mut answer = AnswerAtOnce { answer: Answer { chain, failed: false }, waits: false };
    let length = server.serve(request, &mut answer);
    let failed = answer.answer.failed || length == 0;
    (!answer.waits).then_some(Outcome { length, failed })
}

/// Copies the request out of the chain: the driver can change its memory at any time.
fn take(server: &Server, chain: &Chain, request: &mut Vec<u8>) -> bool {
    // A longer one is refused whatever it holds, so no more of it is needed than says so.
    let length = chain.readable().min(server.limits().msize as usize + 1);
    request.resize(length, 0);
    chain.read_at(0, request)
}

/// The writable part of a chain.
struct Answer<'a> {
    chain: &'a Chain,
    /// What was written last is an error's reply.
    failed: bool,
}

impl Reply for Answer<'_> {
    fn capacity(&self) -> usize {
        self.chain.writable()
    }

    fn write_at(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        if offset == 0 {
            self.failed = bytes.get(KIND) == Some(&kind::RLERROR);
        }
        if self.chain.write_at(offset, bytes) { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) }
    }

    fn read_file_at(
        &mut self,
        offset: usize,
        count: usize,
        file: BorrowedFd,
        file_offset: u64,
    ) -> io::Result<usize> {
        self.chain.read_from_file(offset, count, file, file_offset)
    }
}

/// The same, but with nothing that the host would have to fetch from its disk: then there is no answer.
struct AnswerAtOnce<'a> {
    answer: Answer<'a>,
    waits: bool,
}

impl Reply for AnswerAtOnce<'_> {
    fn capacity(&self) -> usize {
        self.answer.capacity()
    }

    fn write_at(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        if self.waits {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.answer.write_at(offset, bytes)
    }

    fn read_file_at(
        &mut self,
        offset: usize,
        count: usize,
        file: BorrowedFd,
        file_offset: u64,
    ) -> io::Result<usize> {
        match self.answer.chain.read_from_page_cache(offset, count, file.as_fd(), file_offset) {
            // A read that ends within a page has come to the file's end: all of a page is there, or nothing.
            Ok(length) if length == count || !(file_offset + length as u64).is_multiple_of(PAGE) => {
                Ok(length)
            }
            Ok(0) => Ok(0),
            // A file system in memory, or one that can't say.
            Err(e) if e.kind() == io::ErrorKind::Unsupported => {
                self.answer.chain.read_from_file(offset, count, file, file_offset)
            }
            Ok(_) => self.later(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.later(),
            Err(e) => Err(e),
        }
    }
}

impl AnswerAtOnce<'_> {
    fn later(&mut self) -> io::Result<usize> {
        self.waits = true;
        Err(io::ErrorKind::WouldBlock.into())
    }
}

/// The readable part of a chain that holds a Twrite, after its head.
struct Written<'a>(&'a Chain);

impl Data for Written<'_> {
    fn count(&self) -> usize {
        self.0.readable() - WRITE_HEADER
    }

    fn write_file_at(&self, file: BorrowedFd, position: u64) -> io::Result<usize> {
        self.0.write_to_file(WRITE_HEADER, self.count(), file, position)
    }

    fn copy_to(&self, to: &mut [u8]) -> io::Result<()> {
        if self.0.read_at(WRITE_HEADER, to) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
