use std::{
    io::{Read, Write},
    os::{fd::AsFd, unix::net::UnixStream},
};

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::testing;

/// A chain over buffers of these lengths at scattered addresses.
fn chain(readable: &[u32], writable: &[u32]) -> Chain {
    let memory = testing::memory();
    let cuts: Vec<_> = readable.iter().map(|l| (*l, 0u32)).chain(writable.iter().map(|l| (*l, 2))).collect();
    for (i, &(length, flags)) in cuts.iter().enumerate() {
        let more = u32::from(i + 1 < cuts.len());
        let raw = u128::from(0x10_0000 + 0x1_0000 * i as u64)
            | u128::from(length) << 64
            | u128::from(flags | more) << 96
            | (i as u128 + 1) << 112;
        memory.write_obj(raw, GuestAddress(16 * i as u64)).unwrap();
    }
    let table = Piece::find(&memory, GuestAddress(0), 16 * cuts.len()).unwrap();
    Chain::walk(&memory, table, cuts.len() as u16, 0, Vec::new()).unwrap()
}

proptest! {
    #[test]
    fn bytes_arrive_wherever_the_driver_cut_the_buffers(
        cuts in prop::collection::vec(0u32..50, 1..20),
        offset in 0usize..200,
        length in 0usize..300,
    ) {
        let total: u32 = cuts.iter().sum();
        let chain = chain(&[], &cuts);
        prop_assert_eq!(chain.writable(), total as usize);
        let bytes: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let fits = offset + length <= total as usize;
        prop_assert_eq!(chain.write_at(offset, &bytes), fits);
        prop_assert!(!chain.read_at(0, &mut [0]));
    }

    #[test]
    fn a_file_is_read_into_the_buffers_in_order(
        cuts in prop::collection::vec(0u32..50, 1..20),
        offset in 0usize..100,
        count in 0usize..500,
    ) {
        let total = cuts.iter().sum::<u32>() as usize;
        let content: Vec<u8> = (0..400u32).map(|i| (i * 7) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&content).unwrap();
        let chain = chain(&[], &cuts);
        let read = chain.read_from_file(offset, count, file.as_fd(), 10).unwrap();
        prop_assert_eq!(read, count.min(total.saturating_sub(offset)).min(390));
        let mut seen = Vec::new();
        for (i, length) in cuts.iter().enumerate() {
            let mut part = vec![0; *length as usize];
            let at = GuestAddress(0x10_0000 + 0x1_0000 * i as u64);
            chain.memory.read_slice(&mut part, at).unwrap();
            seen.extend(part);
        }
        if read > 0 {
            prop_assert_eq!(&seen[offset..offset + read], &content[10..10 + read]);
        }
    }
}

#[test]
fn bytes_go_to_a_socket_and_come_from_it() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let chain = chain(&[3, 4], &[2, 9]);
    assert!(!chain.write_at(4, &[0; 8]));
    assert_eq!(chain.write_to_socket(1, 100, ours.as_fd()).unwrap(), 6);
    let mut sent = [9; 6];
    theirs.read_exact(&mut sent).unwrap();
    assert_eq!(sent, [0; 6]);
    theirs.write_all(b"hello").unwrap();
    assert_eq!(chain.read_from_socket(1, 4, ours.as_fd()).unwrap(), 4);
    let error = chain.read_from_socket(0, 0, ours.as_fd());
    assert!(error.is_ok() || error.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock));
    drop(theirs);
    assert!(chain.write_to_socket(0, 3, ours.as_fd()).is_err(), "and no SIGPIPE");
}
