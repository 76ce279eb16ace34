//! Page numbers as a driver writes them, joined to ranges.

use virtio::Chain;
use vm_memory::GuestAddress;

/// Of a balloon, whatever the guest's own are (5.5.6).
pub const PAGE: usize = 4096;

/// A page number is a le32.
const NUMBER: usize = 4;

/// How many are read at once.
const AT_ONCE: usize = 256;

/// How many of one chain are looked at; Linux names 256. A guest with more to say in one breath keeps nobody waiting.
const MOST: usize = 4096;

/// Calls `range` with each run of neighbouring pages that a chain names, and their bytes. A driver names them one by
/// one, in either direction; one call to the host for each would cost more than all the rest.
pub fn ranges(chain: &Chain, mut range: impl FnMut(GuestAddress, usize)) {
    let mut numbers = [0; AT_ONCE * NUMBER];
    let all = (chain.readable() / NUMBER).min(MOST) * NUMBER;
    let mut run: Option<(u64, u64)> = None;
    let mut flush = |run: Option<(u64, u64)>| {
        if let Some((first, count)) = run {
            range(GuestAddress(first * PAGE as u64), count as usize * PAGE);
        }
    };
    for offset in (0..all).step_by(numbers.len()) {
        let part = &mut numbers[..(all - offset).min(AT_ONCE * NUMBER)];
        if !chain.read_at(offset, part) {
            break;
        }
        for number in part.chunks_exact(NUMBER) {
            let number = u64::from(u32::from_le_bytes([number[0], number[1], number[2], number[3]]));
            run = match run {
                Some((first, count)) if number == first + count => Some((first, count + 1)),
                Some((first, count)) if number + 1 == first => Some((number, count + 1)),
                other => {
                    flush(other);
                    Some((number, 1))
                }
            };
        }
    }
    flush(run);
}

#[cfg(test)]
mod tests {
    use virtio::testing::{Buffer, chain, memory};

    use super::*;

    fn joined(numbers: &[u32]) -> Vec<(u64, usize)> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        // Cut anywhere.
        let (first, second) = bytes.split_at(bytes.len() / 3);
        let mut found = Vec::new();
        let chain = chain(&memory(), &[Buffer::Readable(first), Buffer::Readable(second)]);
        ranges(&chain, |address, bytes| found.push((address.0 / PAGE as u64, bytes / PAGE)));
        found
    }

    #[test]
    fn neighbours_are_joined_in_both_directions() {
        assert_eq!(joined(&[1, 2, 3, 7, 6, 5, 9]), [(1, 3), (5, 3), (9, 1)]);
        assert_eq!(joined(&[u32::MAX, 0]), [(u64::from(u32::MAX), 1), (0, 1)]);
        assert_eq!(joined(&[4, 4]), [(4, 1), (4, 1)]);
        assert_eq!(joined(&[]), []);
        assert_eq!(joined(&(0..2000).collect::<Vec<_>>()), [(0, 2000)]);
        assert_eq!(joined(&(0..5000).collect::<Vec<_>>()), [(0, MOST)]);
    }
}
