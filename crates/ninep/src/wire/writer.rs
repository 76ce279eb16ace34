//! Writes the fields of one message into a buffer of fixed size.

use super::{HEADER, Qid, Tag};

/// A message does not fit into the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("encode a 9P message: it does not fit")]
pub struct Overflow;

/// Fills a buffer from its start and never writes beyond its end.
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    length: usize,
}

impl<'b> Writer<'b> {
    /// Starts at the beginning of `buffer`.
    pub fn new(buffer: &'b mut [u8]) -> Self {
        Self { buffer, length: 0 }
    }

    /// Appends bytes.
    ///
    /// # Errors
    ///
    /// [`Overflow`] when they do not fit; nothing is appended then.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Overflow> {
        let end = self.length.checked_add(bytes.len()).ok_or(Overflow)?;
        self.buffer.get_mut(self.length..end).ok_or(Overflow)?.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }

    /// Appends one byte.
    ///
    /// # Errors
    ///
    /// [`Overflow`].
    pub fn u8(&mut self, value: u8) -> Result<(), Overflow> {
        self.bytes(&[value])
    }

    /// Appends two bytes.
    ///
    /// # Errors
    ///
    /// [`Overflow`].
    pub fn u16(&mut self, value: u16) -> Result<(), Overflow> {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends four bytes.
    ///
    /// # Errors
    ///
    /// [`Overflow`].
    pub fn u32(&mut self, value: u32) -> Result<(), Overflow> {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends eight bytes.
    ///
    /// # Errors
    ///
    /// [`Overflow`].
    pub fn u64(&mut self, value: u64) -> Result<(), Overflow> {
        self.bytes(&value.to_le_bytes())
    }

    /// Appends a string with its length.
    ///
    /// # Errors
    ///
    /// [`Overflow`], also for a string of more than 65,535 bytes.
    pub fn string(&mut self, bytes: &[u8]) -> Result<(), Overflow> {
        self.u16(u16::try_from(bytes.len()).map_err(|_| Overflow)?)?;
        self.bytes(bytes)
    }

    /// Appends a qid, 13 bytes.
    ///
    /// # Errors
    ///
    /// [`Overflow`].
    pub fn qid(&mut self, qid: Qid) -> Result<(), Overflow> {
        self.u8(qid.kind as u8)?;
        self.u32(qid.version)?;
        self.u64(qid.path)
    }

    /// Leaves room for a header, which [`Self::finish`] fills in.
    ///
    /// # Errors
    ///
    /// [`Overflow`].
    pub fn header(&mut self) -> Result<(), Overflow> {
        self.bytes(&[0; HEADER])
    }

    /// Writes the header of a message that starts with the buffer, and returns the message's length.
    /// `payload` bytes of it stand outside the buffer.
    ///
    /// # Errors
    ///
    /// [`Overflow`] when [`Self::header`] was not called, or the size does not fit its field.
    pub fn finish(self, kind: u8, tag: Tag, payload: usize) -> Result<usize, Overflow> {
        let size = self.length.checked_add(payload).ok_or(Overflow)?;
        let mut header = Writer::new(self.buffer.get_mut(..HEADER).ok_or(Overflow)?);
        header.u32(u32::try_from(size).map_err(|_| Overflow)?)?;
        header.u8(kind)?;
        header.u16(tag.0)?;
        Ok(self.length)
    }

    /// Bytes written so far.
    #[must_use]
    pub fn written(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    /// Bytes that can still be appended.
    #[must_use]
    pub fn room(&self) -> usize {
        self.buffer.len() - self.length
    }

    /// Forgets what was written.
    pub fn clear(&mut self) {
        self.length = 0;
    }
}
