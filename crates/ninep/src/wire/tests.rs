use proptest::collection::vec;
use proptest::prelude::*;
use rustix::io::Errno;

use super::*;
use crate::client::encode;

/// Every kind of request, made of arbitrary fields.
#[derive(Clone, Debug)]
struct Fields {
    which: u8,
    numbers: [u32; 6],
    large: [u64; 5],
    strings: [Vec<u8>; 2],
    names: Vec<Vec<u8>>,
}

fn fields() -> impl Strategy<Value = Fields> {
    let name = vec(any::<u8>(), 1..=NAME_MAX).prop_filter("a name", |name| Name::new(name).is_ok());
    let string = || vec(any::<u8>(), 0..300);
    (any::<u8>(), any::<[u32; 6]>(), any::<[u64; 5]>(), [string(), string()], vec(name, 2..=MAX_WALK))
        .prop_map(|(which, numbers, large, strings, names)| Fields { which, numbers, large, strings, names })
}

impl Fields {
    fn request(&self) -> Request<'_> {
        let [a, b, c, d, e, f] = self.numbers;
        let [l, m, n, o, p] = self.large;
        let (fid, other) = (Fid(a), Fid(b));
        let (text, more) = (&self.strings[0][..], &self.strings[1][..]);
        let name = Name::new(&self.names[0]).unwrap();
        let new_name = Name::new(&self.names[1]).unwrap();
        let kind = LockKind(self.which);
        match self.which % 30 {
            0 => Request::Version { msize: a, version: text },
            1 => Request::Auth { afid: fid, uname: text, aname: more, n_uname: b },
            2 => Request::Attach { fid, afid: other, uname: text, aname: more, n_uname: c },
            3 => Request::Flush { old_tag: Tag(a as u16) },
            which @ (4 | 28) => {
                let mut names = Walk::EMPTY;
                for name in &self.names {
                    names.push(Step::new(name).unwrap()).unwrap();
                }
                match which {
                    4 => Request::Walk { fid, new_fid: other, names },
                    _ => Request::WalkAttributes { fid, new_fid: other, names },
                }
            }
            5 => Request::Lopen { fid, flags: b },
            29 => Request::WalkOpen { fid, new_fid: other, flags: c },
            6 => Request::Lcreate { fid, name, flags: b, mode: c, gid: d },
            7 => Request::Read { fid, offset: l, count: b },
            8 => Request::Write { fid, offset: l, data: text },
            9 => Request::Readdir { fid, offset: l, count: b },
            10 => Request::Getattr { fid, mask: l },
            11 => Request::Setattr {
                fid,
                attributes: SetAttributes {
                    valid: b,
                    mode: c,
                    uid: d,
                    gid: e,
                    size: l,
                    atime_sec: m,
                    atime_nsec: n,
                    mtime_sec: o,
                    mtime_nsec: p,
                },
            },
            12 => Request::Readlink { fid },
            13 => Request::Statfs { fid },
            14 => Request::Clunk { fid },
            15 => Request::Remove { fid },
            16 => Request::Fsync { fid, data_only: b },
            17 => Request::Xattrwalk { fid, new_fid: other, name: text },
            18 => Request::Xattrcreate { fid, name: text, size: l, flags: b },
            19 => Request::Lock { fid, kind, flags: b, start: l, length: m, proc_id: c, client_id: text },
            20 => Request::Getlock { fid, kind, start: l, length: m, proc_id: c, client_id: text },
            21 => Request::Symlink { directory: fid, name, target: text, gid: b },
            22 => Request::Mknod { directory: fid, name, mode: c, major: d, minor: e, gid: f },
            23 => Request::Mkdir { directory: fid, name, mode: b, gid: c },
            24 => Request::Link { directory: fid, fid: other, name },
            25 => Request::Rename { fid, directory: other, name },
            26 => Request::Renameat { old_directory: fid, old_name: name, new_directory: other, new_name },
            _ => Request::Unlinkat { directory: fid, name, flags: b },
        }
    }
}

proptest! {
    #[test]
    fn a_request_survives_encoding_and_decoding(fields in fields(), tag: u16) {
        let request = fields.request();
        let decoded_bytes = encode(Tag(tag), &request);
        let decoded = Request::decode(&decoded_bytes);
        prop_assert_eq!(decoded.tag, Tag(tag));
        prop_assert_eq!(decoded.request, Ok(request));
    }

    #[test]
    fn the_head_of_a_write_says_what_the_whole_says(
        fid: u32, offset: u64, data in vec(any::<u8>(), 0..50), extra in 0_usize..3, count: u32, lies: bool,
    ) {
        let mut message = encode(Tag(9), &Request::Write { fid: Fid(fid), offset, data: &data });
        if lies {
            message[19..23].copy_from_slice(&count.to_le_bytes());
        }
        message.extend(vec![0; extra]);
        let size = message.len() as u32;
        message[..4].copy_from_slice(&size.to_le_bytes());
        let head = message[..WRITE_HEADER].try_into().unwrap();
        let (tag, split) = WriteHead::decode(head, message.len() - WRITE_HEADER);
        let whole = Request::decode(&message);
        prop_assert_eq!(tag, whole.tag);
        let whole = whole.request.map(|request| match request {
            Request::Write { fid, offset, .. } => WriteHead { fid, offset },
            other => panic!("{other:?}"),
        });
        prop_assert_eq!(split, whole);
        prop_assert!(WriteHead::decode(head, message.len()).1.is_err());
    }

    #[test]
    fn a_request_cut_short_is_refused_with_its_tag(fields in fields(), cut: prop::sample::Index) {
        let mut message = encode(Tag(7), &fields.request());
        message.truncate(cut.index(message.len()));
        // Once with the size it had, once with a size that fits what is left.
        let decoded = Request::decode(&message);
        prop_assert!(decoded.request.is_err());
        if message.len() >= HEADER {
            prop_assert_eq!(decoded.tag, Tag(7));
            let size = message.len() as u32;
            message[..4].copy_from_slice(&size.to_le_bytes());
            let short = Request::decode(&message).request;
            // Tfsync alone has a field that may be left out.
            let fsync = matches!(short, Ok(Request::Fsync { data_only: 0, .. }));
            prop_assert!(short.is_err() || fsync);
        }
    }

    #[test]
    fn a_request_with_bytes_behind_it_is_refused(fields in fields(), extra in vec(any::<u8>(), 1..9)) {
        let mut message = encode(Tag(7), &fields.request());
        message.extend(extra);
        prop_assert_eq!(Request::decode(&message).request, Err(Malformed::Size));
        let size = message.len() as u32;
        message[..4].copy_from_slice(&size.to_le_bytes());
        prop_assert_eq!(Request::decode(&message).request, Err(Malformed::Trailing));
    }

    #[test]
    fn arbitrary_bytes_are_decoded_without_a_panic(
        kind: u8, body in vec(any::<u8>(), 0..600), lies: bool, size: u32,
    ) {
        let true_size = (HEADER + body.len()) as u32;
        let mut message = if lies { size } else { true_size }.to_le_bytes().to_vec();
        message.extend([kind, 1, 2]);
        message.extend(&body);
        let decoded = Request::decode(&message);
        prop_assert_eq!(decoded.tag, Tag(0x0201));
        if let Ok(request) = decoded.request {
            let again = encode(decoded.tag, &request);
            prop_assert_eq!(Request::decode(&again).request, Ok(request));
        }
        let _ = Request::decode(&body);
    }

    #[test]
    fn a_response_never_writes_beyond_its_buffer(
        room in 0_usize..500, count in 0..=MAX_WALK, target in vec(any::<u8>(), 0..200),
    ) {
        let responses = [
            Response::Error(Errno::NOENT),
            Response::Version { msize: 4096, version: VERSION },
            Response::Walk { qids: [Qid::default(); MAX_WALK], count },
            Response::WalkAttributes {
                qids: [Qid::default(); MAX_WALK],
                count,
                attributes: (count > 3).then(Attributes::default),
            },
            Response::Getattr(Attributes::default()),
            Response::Readlink(target.clone()),
            Response::Statfs(FileSystem::default()),
            Response::Lcreate(Qid::default()),
            Response::Made { request: kind::TMKDIR, qid: Qid::default() },
            Response::Write { count: 7 },
            Response::Xattrwalk { size: 7 },
            Response::Lock(LockStatus::Blocked),
            Response::Getlock { kind: LockKind::WRITE, start: 0, length: 1, proc_id: 2, client_id: &target },
        ];
        for response in responses {
            let mut whole = [0; 8192];
            let length = response.encode(Tag(3), &mut whole).unwrap();
            prop_assert_eq!(whole[..4].to_vec(), (length as u32).to_le_bytes());
            let mut buffer = vec![0xaa; 600];
            let encoded = response.encode(Tag(3), &mut buffer[..room]);
            prop_assert_eq!(encoded, if length <= room { Ok(length) } else { Err(Overflow) });
            prop_assert!(buffer[room..].iter().all(|byte| *byte == 0xaa));
        }
    }
}

#[test]
fn names_that_are_no_entries_are_refused() {
    for name in [&b""[..], b".", b"..", b"/", b"a/b", b"/etc", b"a\0b", b"\0", b"a/"] {
        assert_eq!(Name::new(name), Err(Malformed::Name), "{}", name.escape_ascii());
    }
    assert_eq!(Name::new(&[b'x'; 256]), Err(Malformed::LongName));
    assert!(Name::new(&[b'x'; 255]).is_ok());
    for name in [&b"..."[..], b"..a", b".hidden", b"\xff\xfe", b"a b\n"] {
        assert!(Name::new(name).is_ok());
    }
}

#[test]
fn a_walk_of_17_names_is_refused() {
    let mut message = vec![0; 4];
    message.extend([kind::TWALK, 5, 0]);
    message.extend([0; 8]);
    message.extend(17_u16.to_le_bytes());
    for _ in 0..17 {
        message.extend([1, 0, b'a']);
    }
    let size = message.len() as u32;
    message[..4].copy_from_slice(&size.to_le_bytes());
    let decoded = Request::decode(&message);
    assert_eq!((decoded.tag, decoded.request), (Tag(5), Err(Malformed::Walk)));
}

#[test]
fn a_string_that_claims_more_than_the_message_is_refused() {
    let mut message = encode(Tag(1), &Request::Version { msize: 8192, version: b"9P2000.L" });
    message[11..13].copy_from_slice(&u16::MAX.to_le_bytes());
    assert_eq!(Request::decode(&message).request, Err(Malformed::Truncated));
}
