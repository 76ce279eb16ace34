//! What a driver asks for (virtio 1.2, 5.2.6): a header, data, a status byte, wherever the driver cut them.

use virtio::Chain;

/// The unit of capacities and positions, whatever a disk's block size (virtio 1.2, 5.2.4).
pub(crate) const SECTOR: u64 = 512;

/// The header: type (4 bytes), reserved (4), first sector (8).
pub(crate) const HEADER: usize = 16;

/// A range of a discard or a write-zeroes request: first sector (8 bytes), sectors (4), flags (4).
const RANGE: usize = 16;

/// The most ranges of one request; the configuration space says so.
pub(crate) const MAX_RANGES: usize = 64;

/// The most sectors of one range: 2 GiB less a sector, so that every size on the way fits 32 bits.
pub(crate) const MAX_RANGE_SECTORS: u32 = (1 << 22) - 1;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// The one flag of a range: the sectors of a write-zeroes request may be given back.
const UNMAP: u32 = 1;

/// What the driver is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    /// VIRTIO_BLK_S_OK.
    Ok = 0,
    /// VIRTIO_BLK_S_IOERR.
    IoError = 1,
    /// VIRTIO_BLK_S_UNSUPP.
    Unsupported = 2,
}

/// A request that the disk can carry out. Positions and lengths are in bytes, within the disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Fill the writable part, all but the status byte, from this position.
    Read { position: u64, length: usize },
    /// Write what follows the header to this position.
    Write { position: u64, length: usize },
    /// Make durable what was written.
    Flush,
    /// The disk's name, into the start of the writable part.
    GetId,
    /// Give space back.
    Discard(Vec<Range>),
    /// Make zero.
    WriteZeroes(Vec<Range>),
}

/// A part of the disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub position: u64,
    pub length: u64,
    /// Whether its space may be given back to the host.
    pub unmap: bool,
}

/// What of a disk a request must respect.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub sectors: u64,
    pub read_only: bool,
}

impl Request {
    /// Reads a request. The caller has seen that the chain has room for the status byte.
    pub(crate) fn parse(chain: &Chain, limits: Limits) -> Result<Self, Status> {
        let mut header = [0; HEADER];
        if !chain.read_at(0, &mut header) {
            return Err(Status::IoError);
        }
        let [kind, _, low, high] = words(&header);
        let sector = u64::from(high) << 32 | u64::from(low);
        let (out, room) = (chain.readable() - HEADER, chain.writable().saturating_sub(1));
        // A device must not write to a read-only disk, and says IOERR (5.2.6.2).
        let changes = matches!(kind, OUT | DISCARD | WRITE_ZEROES);
        if changes && limits.read_only {
            return Err(Status::IoError);
        }
        match kind {
            IN => limits.place(sector, room).map(|position| Self::Read { position, length: room }),
            OUT => limits.place(sector, out).map(|position| Self::Write { position, length: out }),
            FLUSH => Ok(Self::Flush),
            GET_ID => Ok(Self::GetId),
            DISCARD => limits.ranges(chain, out, 0).map(Self::Discard),
            WRITE_ZEROES => limits.ranges(chain, out, UNMAP).map(Self::WriteZeroes),
            _ => Err(Status::Unsupported),
        }
    }
}

impl Limits {
    /// Where `length` bytes from `sector` lie, if they are whole sectors of the disk.
    fn place(self, sector: u64, length: usize) -> Result<u64, Status> {
        let length = length as u64;
        let end = sector.checked_add(length / SECTOR).ok_or(Status::IoError)?;
        if !length.is_multiple_of(SECTOR) || end > self.sectors {
            return Err(Status::IoError);
        }
        Ok(sector * SECTOR)
    }

    /// The ranges that follow the header, none with a flag that is not `allowed`.
    fn ranges(self, chain: &Chain, bytes: usize, allowed: u32) -> Result<Vec<Range>, Status> {
        if bytes == 0 || !bytes.is_multiple_of(RANGE) || bytes / RANGE > MAX_RANGES {
            return Err(Status::IoError);
        }
        (0..bytes / RANGE)
            .map(|index| {
                let mut raw = [0; RANGE];
                if !chain.read_at(HEADER + index * RANGE, &mut raw) {
                    return Err(Status::IoError);
                }
                let [low, high, sectors, flags] = words(&raw);
                // Unknown flags, and unmap in a discard, are not supported (5.2.6.2).
                if flags & !allowed != 0 {
                    return Err(Status::Unsupported);
                }
                if sectors > MAX_RANGE_SECTORS {
                    return Err(Status::IoError);
                }
                let length = u64::from(sectors) * SECTOR;
                let sector = u64::from(high) << 32 | u64::from(low);
                let position = self.place(sector, length as usize)?;
                Ok(Range { position, length, unmap: flags & UNMAP != 0 })
            })
            .collect()
    }
}

/// Sixteen bytes as four little-endian words.
fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}

#[cfg(test)]
mod tests;
