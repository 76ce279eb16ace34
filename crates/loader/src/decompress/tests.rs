use std::process::{Command, Stdio};

use super::*;

/// Bytes that compress, but not to nothing.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 1u32;
    (0..size)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 28) as u8
        })
        .collect()
}

/// Compresses with the tool that the kernel's build uses, or says that it is missing.
fn tool(command: &[&str], data: &[u8]) -> Option<Vec<u8>> {
    let child =
        Command::new(command[0]).args(&command[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else {
        eprintln!("SKIPPED: no {} on this machine", command[0]);
        return None;
    };
    let mut stdin = child.stdin.take().unwrap();
    let data = data.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&data).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    Some(output.stdout)
}

const TOOLS: [(Format, &[&str]); 4] = [
    (Format::Gzip, &["gzip", "-9"]),
    (Format::Xz, &["xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB"]),
    (Format::Lz4, &["lz4", "-l", "-9", "-", "-"]),
    (Format::Zstd, &["zstd", "-22", "--ultra"]),
];

#[test]
fn what_the_kernels_tools_pack_is_unpacked() {
    for (format, command) in TOOLS {
        // More than one block of lz4.
        let data = sample(if format == Format::Lz4 { 9 << 20 } else { 1 << 20 });
        let Some(packed) = tool(command, &data) else { continue };
        assert_eq!(Format::detect(&packed), Some(format));
        let mut out = Vec::new();
        assert_eq!(format.unpack(packed.as_slice(), &mut out, 1 << 30).unwrap(), data.len() as u64);
        assert!(out == data, "{format}");
    }
}

#[test]
fn truncated_data_and_too_much_data_are_errors() {
    let data = sample(100_000);
    for (format, command) in TOOLS {
        let Some(packed) = tool(command, &data) else { continue };
        for cut in [7, 20, packed.len() / 2, packed.len() - 1] {
            assert!(format.unpack(&packed[..cut], &mut Vec::new(), 1 << 20).is_err(), "{format} {cut}");
        }
        let error = format.unpack(packed.as_slice(), &mut Vec::new(), 99_999).unwrap_err();
        assert!(error.to_string().contains("more than 99999 bytes"), "{format}: {error}");
    }
}

#[test]
fn a_zstd_window_of_a_gigabyte_is_refused_before_it_is_allocated() {
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 20 << 3, 1, 0, 0];
    let error = Format::Zstd.unpack(&frame[..], &mut Vec::new(), 1 << 30).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
}

/// A frame that is all one segment, of so many bytes as it says, and of 1,000 blocks of 128 KiB each.
fn segment(content: u64) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 3 << 6 | 1 << 5];
    frame.extend(content.to_le_bytes());
    for block in 1..=1000 {
        let last = u32::from(block == 1000);
        frame.extend(&(last | 1 << 1 | (128 << 10) << 3).to_le_bytes()[..3]);
        frame.push(b'x');
    }
    frame
}

#[test]
fn a_zstd_segment_that_claims_a_terabyte_is_not_gathered_in_memory() {
    for content in [1 << 40, u64::MAX, WINDOW_MAX + 1] {
        let error = Format::Zstd.unpack(&segment(content)[..], &mut Vec::new(), 1 << 20).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{error}");
    }
    let mut out = Vec::new();
    assert_eq!(Format::Zstd.unpack(&segment(128_000 << 10)[..], &mut out, 1 << 30).unwrap(), 128_000 << 10);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(format in 0usize..4, tail: Vec<u8>, flip: usize) {
        let format = [Format::Gzip, Format::Xz, Format::Lz4, Format::Zstd][format];
        let magic: &[u8] = match format {
            Format::Gzip => &[0x1f, 0x8b, 8],
            Format::Xz => &[0xfd, b'7', b'z', b'X', b'Z', 0, 0, 1, 0x69, 0x22, 0xde, 0x36],
            Format::Lz4 => &[0x02, 0x21, 0x4c, 0x18],
            Format::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
        };
        let mut bytes = [magic, &tail].concat();
        let at = flip % bytes.len();
        bytes[at] ^= (flip >> 8) as u8;
        let _ = format.unpack(bytes.as_slice(), &mut Vec::new(), 1 << 20);
    }
}
