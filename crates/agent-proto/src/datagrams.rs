//! Datagrams on a stream: of many clients of one published UDP port, each with a number of its own.

/// The most bytes of a datagram.
pub const MAX_DATAGRAM: usize = u16::MAX as usize;

/// What stands before each: the client's number and the datagram's length, both little-endian.
pub const DATAGRAM_HEADER: usize = 6;

/// What stands before a datagram of so many bytes.
#[must_use]
pub fn datagram_header(client: u32, length: u16) -> [u8; DATAGRAM_HEADER] {
    let ([a, b, c, d], [e, f]) = (client.to_le_bytes(), length.to_le_bytes());
    [a, b, c, d, e, f]
}

/// Takes datagrams out of a stream. It holds no more than the one that has begun, and what [`add`](Self::add) was
/// given since.
#[derive(Debug, Default)]
pub struct Datagrams {
    /// `bytes[start..]` was not taken yet.
    bytes: Vec<u8>,
    start: usize,
}

impl Datagrams {
    /// Adds bytes of the stream.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next datagram that is whole, and its client's number.
    pub fn take(&mut self) -> Option<(u32, &[u8])> {
        let rest = self.bytes.get(self.start..)?;
        let ([a, b, c, d, e, f], rest) = rest.split_first_chunk::<DATAGRAM_HEADER>()?;
        let length = usize::from(u16::from_le_bytes([*e, *f]));
        let datagram = rest.get(..length)?;
        self.start += DATAGRAM_HEADER + length;
        Some((u32::from_le_bytes([*a, *b, *c, *d]), datagram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_out_as_they_went_in_however_the_stream_is_cut() {
        let all: [(u32, &[u8]); 4] = [(1, b"one"), (u32::MAX, b""), (7, &[9; MAX_DATAGRAM]), (1, b"last")];
        let mut stream = Vec::new();
        for (client, datagram) in all {
            stream.extend(datagram_header(client, datagram.len() as u16));
            stream.extend(datagram);
        }
        for cut in [1, 5, 6, 7, 4096, stream.len()] {
            let (mut datagrams, mut got) = (Datagrams::default(), Vec::new());
            for part in stream.chunks(cut) {
                datagrams.add(part);
                while let Some((client, datagram)) = datagrams.take() {
                    got.push((client, datagram.to_vec()));
                }
            }
            assert!(got.iter().map(|(client, datagram)| (*client, datagram.as_slice())).eq(all), "{cut}");
        }
    }
}
