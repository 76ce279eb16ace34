use proptest::prelude::*;

use super::*;

#[test]
fn fields_lie_where_the_specification_puts_them() {
    let mut raw = [0; HEADER_SIZE];
    for (byte, value) in raw.iter_mut().zip(1..) {
        *byte = value;
    }
    let header = Header::from_bytes(&raw);
    assert_eq!(header.source_cid, 0x0807_0605_0403_0201);
    assert_eq!(header.destination_cid, 0x100f_0e0d_0c0b_0a09);
    assert_eq!(header.source_port, 0x1413_1211);
    assert_eq!(header.destination_port, 0x1817_1615);
    assert_eq!(header.length, 0x1c1b_1a19);
    assert_eq!((header.kind, header.op), (0x1e1d, 0x201f));
    assert_eq!(header.flags, 0x2423_2221);
    assert_eq!(header.buffer, 0x2827_2625);
    assert_eq!(header.forwarded, 0x2c2b_2a29);
}

#[test]
fn numbers_of_no_operation_are_none() {
    assert_eq!((1..=7).filter_map(Op::from_number).count(), 7);
    assert!([0, 8, u16::MAX].into_iter().all(|n| Op::from_number(n).is_none()));
}

proptest! {
    #[test]
    fn a_header_survives_the_way_to_bytes_and_back(raw in any::<[u8; 32]>(), tail in any::<[u8; 12]>()) {
        let mut bytes = [0; HEADER_SIZE];
        bytes[..32].copy_from_slice(&raw);
        bytes[32..].copy_from_slice(&tail);
        prop_assert_eq!(Header::from_bytes(&bytes).to_bytes(), bytes);
    }
}
