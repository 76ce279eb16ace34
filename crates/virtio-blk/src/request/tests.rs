use proptest::prelude::*;
use virtio::testing::{Buffer, chain, memory};

use super::*;

fn request(readable: &[u8], cuts: &[usize], writable: u32, limits: Limits) -> Result<Request, Status> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (readable.len() + 1)).collect();
    cuts.extend([0, readable.len()]);
    cuts.sort_unstable();
    let mut buffers: Vec<_> = cuts.windows(2).map(|w| Buffer::Readable(&readable[w[0]..w[1]])).collect();
    buffers.push(Buffer::Writable(writable));
    Request::parse(&chain(&memory(), &buffers), limits)
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0xff; 4], &sector.to_le_bytes()].concat()
}

/// Numbers near the edges of 64 bits, of a signed file offset in sectors, and of the disk.
fn sector() -> impl Strategy<Value = u64> {
    prop_oneof![
        0u64..80,
        any::<u64>(),
        (0u64..4).prop_map(|n| u64::MAX - n),
        (0u64..4).prop_map(|n| u64::MAX / SECTOR - n),
        (0u64..4).prop_map(|n| i64::MAX as u64 / SECTOR - n),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (prop_oneof![1u64..64, Just(u64::MAX / SECTOR)], any::<bool>())
        .prop_map(|(sectors, read_only)| Limits { sectors, read_only })
}

/// Whether these bytes lie within the disk, counted with room for every sum.
fn inside(position: u64, length: u64, limits: Limits) -> bool {
    u128::from(position) + u128::from(length) <= u128::from(limits.sectors) * u128::from(SECTOR)
        && position.is_multiple_of(SECTOR)
        && length.is_multiple_of(SECTOR)
}

proptest! {
    #[test]
    fn what_is_accepted_lies_within_the_disk_whatever_the_bytes(
        kind in prop_oneof![0u32..16, any::<u32>()],
        sector in sector(),
        data in prop::collection::vec(any::<u8>(), 0..200),
        cuts in prop::collection::vec(any::<usize>(), 0..4),
        writable in 1u32..5000,
        limits in limits(),
    ) {
        let readable = [header(kind, sector), data].concat();
        let Ok(request) = request(&readable, &cuts, writable, limits) else { return Ok(()) };
        let changes = !matches!(request, Request::Read { .. } | Request::Flush | Request::GetId);
        prop_assert!(!(changes && limits.read_only));
        match request {
            Request::Read { position, length } => {
                prop_assert_eq!(length, writable as usize - 1);
                prop_assert!(inside(position, length as u64, limits));
            }
            Request::Write { position, length } => {
                prop_assert_eq!(length, readable.len() - HEADER);
                prop_assert!(inside(position, length as u64, limits));
            }
            Request::Discard(ranges) | Request::WriteZeroes(ranges) => {
                prop_assert_eq!(ranges.len() * RANGE, readable.len() - HEADER);
                prop_assert!(ranges.iter().all(|r| inside(r.position, r.length, limits)));
            }
            Request::Flush | Request::GetId => {}
        }
    }

    #[test]
    fn a_sound_transfer_is_understood_wherever_it_is_cut(
        first in 0u64..64,
        sectors in 0u64..8,
        write: bool,
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let limits = Limits { sectors: 64, read_only: false };
        let length = (sectors * SECTOR) as usize;
        let (readable, writable) = if write {
            ([header(OUT, first), vec![1; length]].concat(), 1)
        } else {
            (header(IN, first), length as u32 + 1)
        };
        let position = first * SECTOR;
        let wanted = match (first + sectors <= 64, write) {
            (false, _) => Err(Status::IoError),
            (true, true) => Ok(Request::Write { position, length }),
            (true, false) => Ok(Request::Read { position, length }),
        };
        prop_assert_eq!(request(&readable, &cuts, writable, limits), wanted);
    }

    #[test]
    fn sound_ranges_are_understood_wherever_they_are_cut(
        ranges in prop::collection::vec((0u64..60, 0u32..8, any::<bool>()), 1..MAX_RANGES),
        discard: bool,
        cuts in prop::collection::vec(any::<usize>(), 0..6),
    ) {
        let limits = Limits { sectors: 64, read_only: false };
        let mut readable = header(if discard { DISCARD } else { WRITE_ZEROES }, 0);
        for &(sector, sectors, unmap) in &ranges {
            readable.extend(sector.to_le_bytes());
            readable.extend(sectors.to_le_bytes());
            readable.extend(u32::from(unmap && !discard).to_le_bytes());
        }
        let wanted = if ranges.iter().all(|&(sector, sectors, _)| sector + u64::from(sectors) <= 64) {
            let ranges = ranges.iter().map(|&(sector, sectors, unmap)| Range {
                position: sector * SECTOR,
                length: u64::from(sectors) * SECTOR,
                unmap: unmap && !discard,
            });
            let ranges = ranges.collect();
            Ok(if discard { Request::Discard(ranges) } else { Request::WriteZeroes(ranges) })
        } else {
            Err(Status::IoError)
        };
        prop_assert_eq!(request(&readable, &cuts, 1, limits), wanted);
    }
}
