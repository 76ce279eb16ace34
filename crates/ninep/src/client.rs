//! A 9P2000.L client for tests and fuzz targets: encodes requests, checks and decodes replies.
//!
//! It trusts nothing less than a test should: a reply that is not well formed is a panic.

mod encode;

pub use encode::{encode, message_kind};

use std::collections::HashSet;

use rustix::io::Errno;

use crate::Server;
use crate::wire::{
    Attributes, Fid, FileSystem, GETATTR_BASIC, Malformed, Name, Qid, QidKind, REMOVE_DIRECTORY, Reader,
    Request, SetAttributes, Step, Tag, Time, VERSION, Walk, kind,
};

/// A client over anything that turns a request into a reply.
pub struct Client<T> {
    transport: T,
    next_tag: u16,
    /// The group that new files are to have: this process's.
    gid: u32,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields have the specification's names")]
pub struct Entry {
    pub qid: Qid,
    pub offset: u64,
    pub kind: u8,
    pub name: Vec<u8>,
}

/// A client of a server in this process, which offers `room` bytes for each reply.
pub fn connect(server: &Server, room: usize) -> Client<impl FnMut(&[u8]) -> Vec<u8>> {
    Client::new(move |request: &[u8]| {
        let mut reply = vec![0; room];
        let length = server.serve(request, &mut reply[..]);
        reply.truncate(length);
        reply
    })
}

impl<T: FnMut(&[u8]) -> Vec<u8>> Client<T> {
    /// A client that sends nothing yet.
    pub fn new(transport: T) -> Self {
        Self { transport, next_tag: 0, gid: rustix::process::getegid().as_raw() }
    }

    /// Sends bytes that need not be a message, and returns the reply's type, tag and body.
    ///
    /// # Panics
    ///
    /// When the reply is not one message.
    pub fn raw(&mut self, message: &[u8]) -> (u8, Tag, Vec<u8>) {
        let reply = (self.transport)(message);
        let mut reader = Reader::new(&reply);
        let header = (reader.u32(), reader.u8(), reader.u16());
        let (Ok(size), Ok(kind), Ok(tag)) = header else { panic!("a reply of {} bytes", reply.len()) };
        assert_eq!(size as usize, reply.len(), "the size of a reply");
        (kind, Tag(tag), reply[crate::wire::HEADER..].to_vec())
    }

    /// Sends a request and returns the body of the reply.
    ///
    /// # Errors
    ///
    /// The error number of an Rlerror.
    ///
    /// # Panics
    ///
    /// When the reply does not belong to the request.
    pub fn call(&mut self, request: &Request<'_>) -> Result<Vec<u8>, Errno> {
        let tag = Tag(self.next_tag);
        self.next_tag = (self.next_tag + 1) % u16::MAX;
        let (kind, reply_tag, body) = self.raw(&encode(tag, request));
        assert_eq!(reply_tag, tag, "the tag of the reply to {request:?}");
        if kind == kind::RLERROR {
            let errno = decode(&body, Reader::u32);
            return Err(Errno::from_raw_os_error(errno.cast_signed()));
        }
        assert_eq!(kind, message_kind(request) + 1, "the type of the reply to {request:?}");
        Ok(body)
    }

    /// Tversion for 9P2000.L; returns the msize agreed on.
    ///
    /// # Errors
    ///
    /// The server's. "unknown" is `EPROTONOSUPPORT`.
    pub fn version(&mut self, msize: u32) -> Result<u32, Errno> {
        let body = self.call(&Request::Version { msize, version: VERSION })?;
        let (msize, version) = decode(&body, |reader| Ok((reader.u32()?, reader.string()?)));
        if version == VERSION { Ok(msize) } else { Err(Errno::PROTONOSUPPORT) }
    }

    /// Tattach.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn attach(&mut self, fid: u32) -> Result<Qid, Errno> {
        let request =
            Request::Attach { fid: Fid(fid), afid: Fid::NONE, uname: b"test", aname: b"", n_uname: 0 };
        self.call(&request).map(|body| decode(&body, qid))
    }

    /// Twalk along a relative path; returns the qids of the names that were walked.
    ///
    /// # Errors
    ///
    /// The server's.
    ///
    /// # Panics
    ///
    /// For a path that has no encoding, such as one of 17 names.
    pub fn walk(&mut self, fid: u32, new_fid: u32, path: &str) -> Result<Vec<Qid>, Errno> {
        let names = names(path);
        let body = self.call(&Request::Walk { fid: Fid(fid), new_fid: Fid(new_fid), names })?;
        Ok(decode(&body, |reader| (0..reader.u16()?).map(|_| qid(reader)).collect()))
    }

    /// Twalkattr along a relative path: the qids of the names that were walked, and the attributes of what it leads
    /// to if those were all.
    ///
    /// # Errors
    ///
    /// The server's.
    ///
    /// # Panics
    ///
    /// As [`walk`](Self::walk).
    pub fn walk_attributes(
        &mut self,
        fid: u32,
        new_fid: u32,
        path: &str,
    ) -> Result<(Vec<Qid>, Option<Attributes>), Errno> {
        let names = names(path);
        let all = names.steps().len();
        let body = self.call(&Request::WalkAttributes { fid: Fid(fid), new_fid: Fid(new_fid), names })?;
        Ok(decode(&body, |reader| {
            let qids = (0..reader.u16()?).map(|_| qid(reader)).collect::<Result<Vec<_>, _>>()?;
            let attributes = (qids.len() == all).then(|| attributes(reader)).transpose()?;
            Ok((qids, attributes))
        }))
    }

    /// Tlopen.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn open(&mut self, fid: u32, flags: u32) -> Result<Qid, Errno> {
        self.call(&Request::Lopen { fid: Fid(fid), flags }).map(|body| opened(&body))
    }

    /// Twalkopen.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn walk_open(&mut self, fid: u32, new_fid: u32, flags: u32) -> Result<Qid, Errno> {
        let request = Request::WalkOpen { fid: Fid(fid), new_fid: Fid(new_fid), flags };
        self.call(&request).map(|body| opened(&body))
    }

    /// Tread.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn read(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let body = self.call(&Request::Read { fid: Fid(fid), offset, count })?;
        Ok(decode(&body, data).to_vec())
    }

    /// Tlcreate with mode 0644: `fid`, a directory, becomes the new file, open.
    ///
    /// # Errors
    ///
    /// The server's.
    ///
    /// # Panics
    ///
    /// For what is not the name of an entry; so with the other methods that take names.
    pub fn create(&mut self, fid: u32, name: &str, flags: u32) -> Result<Qid, Errno> {
        let request =
            Request::Lcreate { fid: Fid(fid), name: entry_name(name), flags, mode: 0o644, gid: self.gid };
        let body = self.call(&request)?;
        Ok(decode(&body, |reader| {
            let qid = qid(reader)?;
            assert_eq!(reader.u32()?, 0, "iounit");
            Ok(qid)
        }))
    }

    /// Tmkdir with mode 0755.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn make_directory(&mut self, directory: u32, name: &str) -> Result<Qid, Errno> {
        let (directory, name) = (Fid(directory), entry_name(name));
        self.call(&Request::Mkdir { directory, name, mode: 0o755, gid: self.gid })
            .map(|body| decode(&body, qid))
    }

    /// Tsymlink.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn symlink(&mut self, directory: u32, name: &str, target: &[u8]) -> Result<Qid, Errno> {
        let (directory, name) = (Fid(directory), entry_name(name));
        self.call(&Request::Symlink { directory, name, target, gid: self.gid }).map(|body| decode(&body, qid))
    }

    /// Tmknod of a type and mode, without a device number.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn mknod(&mut self, directory: u32, name: &str, mode: u32) -> Result<Qid, Errno> {
        let (directory, name) = (Fid(directory), entry_name(name));
        let request = Request::Mknod { directory, name, mode, major: 1, minor: 3, gid: self.gid };
        self.call(&request).map(|body| decode(&body, qid))
    }

    /// Tlink.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn link(&mut self, fid: u32, directory: u32, name: &str) -> Result<(), Errno> {
        let (directory, fid, name) = (Fid(directory), Fid(fid), entry_name(name));
        self.call(&Request::Link { directory, fid, name }).map(drop)
    }

    /// Trenameat.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn rename(&mut self, old: (u32, &str), new: (u32, &str)) -> Result<(), Errno> {
        self.call(&Request::Renameat {
            old_directory: Fid(old.0),
            old_name: entry_name(old.1),
            new_directory: Fid(new.0),
            new_name: entry_name(new.1),
        })
        .map(drop)
    }

    /// Tunlinkat of a file, or of a directory.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn unlink(&mut self, directory: u32, name: &str, is_directory: bool) -> Result<(), Errno> {
        let flags = if is_directory { REMOVE_DIRECTORY } else { 0 };
        let (directory, name) = (Fid(directory), entry_name(name));
        self.call(&Request::Unlinkat { directory, name, flags }).map(drop)
    }

    /// Twrite; returns how many bytes were written.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn write(&mut self, fid: u32, offset: u64, data: &[u8]) -> Result<usize, Errno> {
        let body = self.call(&Request::Write { fid: Fid(fid), offset, data })?;
        Ok(decode(&body, Reader::u32) as usize)
    }

    /// Tsetattr.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn set(&mut self, fid: u32, attributes: SetAttributes) -> Result<(), Errno> {
        self.call(&Request::Setattr { fid: Fid(fid), attributes }).map(drop)
    }

    /// Txattrwalk, Tread and Tclunk: the value of an attribute, or the list of names.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn xattr(&mut self, fid: u32, spare: u32, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let body = self.call(&Request::Xattrwalk { fid: Fid(fid), new_fid: Fid(spare), name })?;
        let size = decode(&body, Reader::u64);
        let mut value = Vec::new();
        while (value.len() as u64) < size {
            let more = self.read(spare, value.len() as u64, u32::MAX)?;
            assert!(!more.is_empty(), "{} of {size} bytes of an attribute", value.len());
            value.extend(more);
        }
        self.clunk(spare)?;
        Ok(value)
    }

    /// Twalk, Txattrcreate, Twrite and Tclunk: sets an attribute, or with `XATTR_REPLACE` and nothing removes it.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn set_xattr(
        &mut self,
        fid: u32,
        spare: u32,
        name: &[u8],
        value: &[u8],
        flags: u32,
    ) -> Result<(), Errno> {
        self.walk(fid, spare, "")?;
        let size = value.len() as u64;
        if let Err(errno) = self.call(&Request::Xattrcreate { fid: Fid(spare), name, size, flags }) {
            self.clunk(spare)?;
            return Err(errno);
        }
        if !value.is_empty() {
            self.write(spare, 0, value)?;
        }
        self.clunk(spare)
    }

    /// Treaddir.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn readdir(&mut self, fid: u32, offset: u64, count: u32) -> Result<Vec<Entry>, Errno> {
        let body = self.call(&Request::Readdir { fid: Fid(fid), offset, count })?;
        let mut reader = Reader::new(decode(&body, data));
        let mut entries = Vec::new();
        while !reader.is_empty() {
            entries.push(entry(&mut reader).expect("an entry of an Rreaddir"));
        }
        Ok(entries)
    }

    /// All entries of an open directory, asked for `count` bytes at a time.
    ///
    /// # Errors
    ///
    /// The server's.
    ///
    /// # Panics
    ///
    /// When the server gives a cookie for the second time, so that the list would have no end.
    pub fn list(&mut self, fid: u32, count: u32) -> Result<Vec<Entry>, Errno> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let offset = entries.last().map_or(0, |entry| entry.offset);
            let more = self.readdir(fid, offset, count)?;
            if more.is_empty() {
                return Ok(entries);
            }
            for entry in more {
                assert!(entry.offset != 0 && seen.insert(entry.offset), "cookie {:#x} again", entry.offset);
                entries.push(entry);
            }
        }
    }

    /// Tgetattr for the basic attributes.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn getattr(&mut self, fid: u32) -> Result<Attributes, Errno> {
        let body = self.call(&Request::Getattr { fid: Fid(fid), mask: GETATTR_BASIC })?;
        Ok(decode(&body, attributes))
    }

    /// Treadlink.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn readlink(&mut self, fid: u32) -> Result<Vec<u8>, Errno> {
        let body = self.call(&Request::Readlink { fid: Fid(fid) })?;
        Ok(decode(&body, Reader::string).to_vec())
    }

    /// Tstatfs.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn statfs(&mut self, fid: u32) -> Result<FileSystem, Errno> {
        let body = self.call(&Request::Statfs { fid: Fid(fid) })?;
        Ok(decode(&body, |r| {
            Ok(FileSystem {
                kind: r.u32()?,
                bsize: r.u32()?,
                blocks: r.u64()?,
                bfree: r.u64()?,
                bavail: r.u64()?,
                files: r.u64()?,
                ffree: r.u64()?,
                fsid: r.u64()?,
                namelen: r.u32()?,
            })
        }))
    }

    /// Tclunk.
    ///
    /// # Errors
    ///
    /// The server's.
    pub fn clunk(&mut self, fid: u32) -> Result<(), Errno> {
        self.call(&Request::Clunk { fid: Fid(fid) }).map(drop)
    }
}

fn entry_name(name: &str) -> Name<'_> {
    Name::new(name.as_bytes()).expect("the name of an entry")
}

fn decode<'a, V>(body: &'a [u8], read: impl FnOnce(&mut Reader<'a>) -> Result<V, Malformed>) -> V {
    let mut reader = Reader::new(body);
    let value = read(&mut reader).expect("a reply holds its fields");
    assert!(reader.is_empty(), "bytes follow the last field of a reply");
    value
}

/// The body of Rlopen.
fn opened(body: &[u8]) -> Qid {
    decode(body, |reader| {
        let qid = qid(reader)?;
        assert_eq!(reader.u32()?, 0, "iounit");
        Ok(qid)
    })
}

fn qid(reader: &mut Reader<'_>) -> Result<Qid, Malformed> {
    let kind = match reader.u8()? {
        0 => QidKind::File,
        0x02 => QidKind::Symlink,
        0x80 => QidKind::Directory,
        kind => panic!("a qid of type {kind:#x}"),
    };
    Ok(Qid { kind, version: reader.u32()?, path: reader.u64()? })
}

fn data<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Malformed> {
    let count = reader.u32()?;
    reader.bytes(count as usize)
}

fn entry(reader: &mut Reader<'_>) -> Result<Entry, Malformed> {
    Ok(Entry {
        qid: qid(reader)?,
        offset: reader.u64()?,
        kind: reader.u8()?,
        name: reader.string()?.to_vec(),
    })
}

fn names(path: &str) -> Walk<'_> {
    let mut names = Walk::EMPTY;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let step = Step::new(name.as_bytes()).expect("a name that can be walked");
        names.push(step).expect("at most 16 names");
    }
    names
}

fn attributes(r: &mut Reader<'_>) -> Result<Attributes, Malformed> {
    assert_eq!(r.u64()?, GETATTR_BASIC, "the valid mask");
    let attributes = Attributes {
        qid: qid(r)?,
        mode: r.u32()?,
        uid: r.u32()?,
        gid: r.u32()?,
        nlink: r.u64()?,
        rdev: r.u64()?,
        size: r.u64()?,
        blksize: r.u64()?,
        blocks: r.u64()?,
        atime: time(r)?,
        mtime: time(r)?,
        ctime: time(r)?,
    };
    r.bytes(4 * 8)?;
    Ok(attributes)
}

fn time(r: &mut Reader<'_>) -> Result<Time, Malformed> {
    let sec = r.u64()?.cast_signed();
    Ok(Time { sec, nsec: u32::try_from(r.u64()?).expect("less than a second of nanoseconds") })
}
