//! The compressions of kernels and kernel modules: recognised by magic, unpacked as a stream,
//! with a cap on the output and on the decoder's memory.

use std::{
    fmt,
    io::{self, Read, Write},
};

use flate2::read::GzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// Bytes at the start of the data that [`Format::detect`] looks at.
pub const MAGIC_SIZE: usize = 6;

/// The largest window or dictionary taken: what `zstd -22 --ultra`, as kernels use, asks for.
const WINDOW_MAX: u64 = 128 << 20;

/// Uncompressed size of a block in lz4's legacy frame.
const LZ4_BLOCK: usize = 8 << 20;
/// The size that incompressible data of one block grows to, lz4's `LZ4_compressBound`.
const LZ4_BLOCK_MAX: usize = LZ4_BLOCK + LZ4_BLOCK / 255 + 16;
const LZ4_MAGIC: u32 = 0x184c_2102;

/// Magic, frame header descriptor, dictionary number, content size; a window descriptor takes no more.
const ZSTD_HEADER_MAX: usize = 4 + 1 + 4 + 8;

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// RFC 1952.
    Gzip,
    /// The .xz container, with the x86 filter that kernels use.
    Xz,
    /// The legacy frame of lz4, the only one that kernels use.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Gzip => "gzip",
            Format::Xz => "xz",
            Format::Lz4 => "lz4",
            Format::Zstd => "zstd",
        })
    }
}

impl Format {
    /// The format whose magic `start` begins with.
    pub fn detect(start: &[u8]) -> Option<Format> {
        match start {
            [0x1f, 0x8b, 8, ..] => Some(Format::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Format::Xz),
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Format::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Format::Zstd),
            _ => None,
        }
    }

    /// Unpacks `input` into `out`, at most `limit` bytes, and returns how many they were.
    ///
    /// Memory stays below 128 MiB for the window and 16 MiB for the rest.
    ///
    /// # Errors
    ///
    /// Damaged or truncated data, more than `limit` bytes, a window above 128 MiB
    /// ([`io::ErrorKind::Unsupported`] or `OutOfMemory`), and the errors of `input` and `out`.
    pub fn unpack(self, input: impl Read, out: &mut impl Write, limit: u64) -> io::Result<u64> {
        let mut out = Capped { out, written: 0, limit };
        match self {
            Format::Gzip => io::copy(&mut GzDecoder::new(input), &mut out)?,
            Format::Xz => io::copy(
                &mut XzReader::new_mem_limit(input, false, (WINDOW_MAX >> 10) as u32 + 1024),
                &mut out,
            )?,
            Format::Lz4 => unpack_lz4(input, &mut out)?,
            Format::Zstd => unpack_zstd(input, &mut out)?,
        };
        Ok(out.written)
    }
}

struct Capped<'a, W> {
    out: &'a mut W,
    written: u64,
    limit: u64,
}

impl<W: Write> Write for Capped<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.limit - self.written {
            return Err(invalid(format!("it unpacks to more than {} bytes", self.limit)));
        }
        let count = self.out.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Blocks of a 32-bit length and that many bytes, up to the end of the input.
fn unpack_lz4(mut input: impl Read, out: &mut impl Write) -> io::Result<u64> {
    let mut total = 0;
    let (mut packed, mut block) = (Vec::new(), vec![0; LZ4_BLOCK]);
    while let Some(word) = read_word(&mut input)? {
        // Frames may follow each other; each starts with the magic.
        if word == LZ4_MAGIC {
            continue;
        }
        let size = word as usize;
        if size == 0 || size > LZ4_BLOCK_MAX {
            return Err(invalid(format!("a block claims {size} bytes")));
        }
        packed.clear();
        if input.by_ref().take(size as u64).read_to_end(&mut packed)? != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = lz4_flex::block::decompress_into(&packed, &mut block).map_err(invalid)?;
        out.write_all(&block[..count])?;
        total += count as u64;
    }
    Ok(total)
}

/// The next word, or `None` at the end of the input.
fn read_word(input: &mut impl Read) -> io::Result<Option<u32>> {
    let mut word = Vec::with_capacity(4);
    match input.take(4).read_to_end(&mut word)? {
        0 => Ok(None),
        4 => Ok(Some(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn unpack_zstd(mut input: impl Read, out: &mut impl Write) -> io::Result<u64> {
    let mut start = Vec::with_capacity(ZSTD_HEADER_MAX);
    input.by_ref().take(ZSTD_HEADER_MAX as u64).read_to_end(&mut start)?;
    let window = zstd_window(&start).ok_or(io::ErrorKind::UnexpectedEof)?;
    if window > WINDOW_MAX {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("it wants a window of {window} bytes, more than {WINDOW_MAX}"),
        ));
    }
    let mut decoder = StreamingDecoder::new_with_decoder(start.as_slice().chain(input), FrameDecoder::new())
        .map_err(invalid)?;
    let total = io::copy(&mut decoder, out)?;
    let frame = &decoder.decoder;
    match (frame.get_checksum_from_data(), frame.get_calculated_checksum()) {
        (Some(stored), Some(calculated)) if stored != calculated => Err(invalid("its checksum differs")),
        _ => Ok(total),
    }
}

/// The window of a frame, or `None` when its header is cut (RFC 8878, 3.1.1.1). The decoder gives nothing out
/// before it holds a whole window. With the single-segment flag that is the content, whose size the frame
/// states as it likes: 4 bytes of a block then become 128 KiB of memory until there is none.
fn zstd_window(start: &[u8]) -> Option<u64> {
    let descriptor = *start.get(4)?;
    if descriptor & 1 << 5 == 0 {
        let window = *start.get(5)?;
        let base = 1u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (size, least) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let mut content = [0; 8];
    content[..size].copy_from_slice(start.get(5 + dictionary..5 + dictionary + size)?);
    u64::from_le_bytes(content).checked_add(least)
}

fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests;
