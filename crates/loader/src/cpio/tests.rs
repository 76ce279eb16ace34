use std::process::{Command, Stdio};

use proptest::prelude::*;

use super::*;

#[derive(Debug, PartialEq, Clone)]
struct Read {
    name: Vec<u8>,
    mode: u32,
    device: (u32, u32),
    data: Vec<u8>,
}

/// A reader that is written from the format's description alone.
fn read(mut bytes: &[u8]) -> Vec<Read> {
    let mut entries = Vec::new();
    loop {
        assert_eq!(&bytes[..6], b"070701");
        let field = |index: usize| {
            let digits = std::str::from_utf8(&bytes[6 + index * 8..14 + index * 8]).unwrap();
            u32::from_str_radix(digits, 16).unwrap()
        };
        let (size, name_size) = (field(6) as usize, field(11) as usize);
        let name = bytes[110..110 + name_size - 1].to_vec();
        assert_eq!(bytes[110 + name_size - 1], 0);
        let data = (110 + name_size).next_multiple_of(4);
        let entry = Read {
            name,
            mode: field(1),
            device: (field(9), field(10)),
            data: bytes[data..data + size].to_vec(),
        };
        bytes = &bytes[(data + size).next_multiple_of(4)..];
        if entry.name == b"TRAILER!!!" {
            assert!(bytes.is_empty());
            return entries;
        }
        entries.push(entry);
    }
}

fn entry() -> impl Strategy<Value = Read> {
    let name = proptest::collection::vec(1u8..=255, 1..40).prop_filter("absolute", |name| name[0] != b'/');
    let data = proptest::collection::vec(any::<u8>(), 0..50);
    (name, 0u32..4, 0u32..0o10000, any::<(u32, u32)>(), data).prop_map(|(name, kind, mode, device, data)| {
        match kind {
            0 => Read { name, mode: 0o040_000 | mode, device: (0, 0), data: vec![] },
            1 => Read { name, mode: 0o100_000 | mode, device: (0, 0), data },
            2 => Read { data: name.clone(), name, mode: 0o120_777, device: (0, 0) },
            _ => Read { name, mode: 0o020_000 | mode, device, data: vec![] },
        }
    })
}

fn write(entries: &[Read]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for entry in entries {
        let mode = entry.mode & 0o7777;
        match entry.mode & 0o170_000 {
            0o040_000 => writer.directory(&entry.name, mode),
            0o100_000 => writer.file(&entry.name, mode, &entry.data),
            0o120_000 => writer.symlink(&entry.name, &entry.data),
            _ => writer.character_device(&entry.name, mode, entry.device.0, entry.device.1),
        }
        .unwrap();
    }
    writer.finish().unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(entries in proptest::collection::vec(entry(), 0..12)) {
        prop_assert_eq!(read(&write(&entries)), entries);
    }
}

#[test]
fn names_that_the_kernel_would_misread_are_refused() {
    let long = vec![b'x'; NAME_MAX + 1];
    for name in [&b""[..], b"/init", b"a\0b", b"TRAILER!!!", &long] {
        let error = Writer::new(Vec::new()).file(name, 0o644, b"").unwrap_err();
        assert!(matches!(error, CpioError::Name { .. }), "{error}");
    }
    assert!(Writer::new(Vec::new()).symlink("a", "").is_err());
}

#[test]
fn the_cpio_tool_lists_the_same_entries() {
    let mut writer = Writer::new(Vec::new());
    writer.directory("dev", 0o755).unwrap();
    writer.character_device("dev/console", 0o600, 5, 1).unwrap();
    writer.file("init", 0o755, b"12345").unwrap();
    writer.symlink("sbin", "usr/sbin").unwrap();
    let archive = writer.finish().unwrap();
    let tool =
        Command::new("cpio").args(["-it", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut tool) = tool else {
        eprintln!("SKIPPED: no cpio tool on this machine");
        return;
    };
    tool.stdin.take().unwrap().write_all(&archive).unwrap();
    let listed = tool.wait_with_output().unwrap();
    assert!(listed.status.success());
    assert_eq!(listed.stdout, b"dev\ndev/console\ninit\nsbin\n");
}
