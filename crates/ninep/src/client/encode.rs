//! Encodes requests: the decoder's opposite.

use crate::wire::{Overflow, Request, SetAttributes, Tag, Writer, kind};

/// The message of a request.
///
/// # Panics
///
/// For a string that is longer than its length field can say.
#[must_use]
pub fn encode(tag: Tag, request: &Request<'_>) -> Vec<u8> {
    let mut buffer = vec![0; 512];
    loop {
        match encode_into(tag, request, &mut buffer) {
            Ok(length) => {
                buffer.truncate(length);
                return buffer;
            }
            Err(Overflow) => {
                assert!(buffer.len() < 1 << 26, "{request:?} has no encoding");
                buffer.resize(buffer.len() * 4, 0);
            }
        }
    }
}

/// The type of a request's message.
#[must_use]
pub fn message_kind(request: &Request<'_>) -> u8 {
    match request {
        Request::Version { .. } => kind::TVERSION,
        Request::Auth { .. } => kind::TAUTH,
        Request::Attach { .. } => kind::TATTACH,
        Request::Flush { .. } => kind::TFLUSH,
        Request::Walk { .. } => kind::TWALK,
        Request::WalkAttributes { .. } => kind::TWALKATTR,
        Request::WalkOpen { .. } => kind::TWALKOPEN,
        Request::Lopen { .. } => kind::TLOPEN,
        Request::Lcreate { .. } => kind::TLCREATE,
        Request::Read { .. } => kind::TREAD,
        Request::Write { .. } => kind::TWRITE,
        Request::Readdir { .. } => kind::TREADDIR,
        Request::Getattr { .. } => kind::TGETATTR,
        Request::Setattr { .. } => kind::TSETATTR,
        Request::Readlink { .. } => kind::TREADLINK,
        Request::Statfs { .. } => kind::TSTATFS,
        Request::Clunk { .. } => kind::TCLUNK,
        Request::Remove { .. } => kind::TREMOVE,
        Request::Fsync { .. } => kind::TFSYNC,
        Request::Xattrwalk { .. } => kind::TXATTRWALK,
        Request::Xattrcreate { .. } => kind::TXATTRCREATE,
        Request::Lock { .. } => kind::TLOCK,
        Request::Getlock { .. } => kind::TGETLOCK,
        Request::Symlink { .. } => kind::TSYMLINK,
        Request::Mknod { .. } => kind::TMKNOD,
        Request::Mkdir { .. } => kind::TMKDIR,
        Request::Link { .. } => kind::TLINK,
        Request::Rename { .. } => kind::TRENAME,
        Request::Renameat { .. } => kind::TRENAMEAT,
        Request::Unlinkat { .. } => kind::TUNLINKAT,
    }
}

fn encode_into(tag: Tag, request: &Request<'_>, buffer: &mut [u8]) -> Result<usize, Overflow> {
    let mut writer = Writer::new(buffer);
    writer.header()?;
    encode_body(request, &mut writer)?;
    writer.finish(message_kind(request), tag, 0)
}

fn encode_body(request: &Request<'_>, w: &mut Writer<'_>) -> Result<(), Overflow> {
    match *request {
        Request::Version { msize, version } => {
            w.u32(msize)?;
            w.string(version)
        }
        Request::Auth { afid, uname, aname, n_uname } => {
            w.u32(afid.0)?;
            w.string(uname)?;
            w.string(aname)?;
            w.u32(n_uname)
        }
        Request::Attach { fid, afid, uname, aname, n_uname } => {
            w.u32(fid.0)?;
            w.u32(afid.0)?;
            w.string(uname)?;
            w.string(aname)?;
            w.u32(n_uname)
        }
        Request::Flush { old_tag } => w.u16(old_tag.0),
        Request::Walk { fid, new_fid, names } | Request::WalkAttributes { fid, new_fid, names } => {
            w.u32(fid.0)?;
            w.u32(new_fid.0)?;
            w.u16(u16::try_from(names.steps().len()).map_err(|_| Overflow)?)?;
            names.steps().iter().try_for_each(|step| w.string(step.as_bytes()))
        }
        Request::WalkOpen { fid, new_fid, flags } => {
            w.u32(fid.0)?;
            w.u32(new_fid.0)?;
            w.u32(flags)
        }
        Request::Lopen { fid, flags } => {
            w.u32(fid.0)?;
            w.u32(flags)
        }
        Request::Lcreate { fid, name, flags, mode, gid } => {
            w.u32(fid.0)?;
            w.string(name.as_bytes())?;
            [flags, mode, gid].into_iter().try_for_each(|value| w.u32(value))
        }
        Request::Read { fid, offset, count } | Request::Readdir { fid, offset, count } => {
            w.u32(fid.0)?;
            w.u64(offset)?;
            w.u32(count)
        }
        Request::Write { fid, offset, data } => {
            w.u32(fid.0)?;
            w.u64(offset)?;
            w.u32(u32::try_from(data.len()).map_err(|_| Overflow)?)?;
            w.bytes(data)
        }
        Request::Getattr { fid, mask } => {
            w.u32(fid.0)?;
            w.u64(mask)
        }
        Request::Setattr { fid, attributes } => {
            w.u32(fid.0)?;
            encode_attributes(&attributes, w)
        }
        Request::Readlink { fid }
        | Request::Statfs { fid }
        | Request::Clunk { fid }
        | Request::Remove { fid } => w.u32(fid.0),
        Request::Fsync { fid, data_only } => {
            w.u32(fid.0)?;
            w.u32(data_only)
        }
        Request::Xattrwalk { fid, new_fid, name } => {
            w.u32(fid.0)?;
            w.u32(new_fid.0)?;
            w.string(name)
        }
        Request::Xattrcreate { fid, name, size, flags } => {
            w.u32(fid.0)?;
            w.string(name)?;
            w.u64(size)?;
            w.u32(flags)
        }
        Request::Lock { fid, kind, flags, start, length, proc_id, client_id } => {
            w.u32(fid.0)?;
            w.u8(kind.0)?;
            w.u32(flags)?;
            w.u64(start)?;
            w.u64(length)?;
            w.u32(proc_id)?;
            w.string(client_id)
        }
        Request::Getlock { fid, kind, start, length, proc_id, client_id } => {
            w.u32(fid.0)?;
            w.u8(kind.0)?;
            w.u64(start)?;
            w.u64(length)?;
            w.u32(proc_id)?;
            w.string(client_id)
        }
        Request::Symlink { directory, name, target, gid } => {
            w.u32(directory.0)?;
            w.string(name.as_bytes())?;
            w.string(target)?;
            w.u32(gid)
        }
        Request::Mknod { directory, name, mode, major, minor, gid } => {
            w.u32(directory.0)?;
            w.string(name.as_bytes())?;
            [mode, major, minor, gid].into_iter().try_for_each(|value| w.u32(value))
        }
        Request::Mkdir { directory, name, mode, gid } => {
            w.u32(directory.0)?;
            w.string(name.as_bytes())?;
            w.u32(mode)?;
            w.u32(gid)
        }
        Request::Link { directory, fid, name } => {
            w.u32(directory.0)?;
            w.u32(fid.0)?;
            w.string(name.as_bytes())
        }
        Request::Rename { fid, directory, name } => {
            w.u32(fid.0)?;
            w.u32(directory.0)?;
            w.string(name.as_bytes())
        }
        Request::Renameat { old_directory, old_name, new_directory, new_name } => {
            w.u32(old_directory.0)?;
            w.string(old_name.as_bytes())?;
            w.u32(new_directory.0)?;
            w.string(new_name.as_bytes())
        }
        Request::Unlinkat { directory, name, flags } => {
            w.u32(directory.0)?;
            w.string(name.as_bytes())?;
            w.u32(flags)
        }
    }
}

fn encode_attributes(attributes: &SetAttributes, w: &mut Writer<'_>) -> Result<(), Overflow> {
    let SetAttributes { valid, mode, uid, gid, size, atime_sec, atime_nsec, mtime_sec, mtime_nsec } =
        *attributes;
    [valid, mode, uid, gid].into_iter().try_for_each(|value| w.u32(value))?;
    [size, atime_sec, atime_nsec, mtime_sec, mtime_nsec].into_iter().try_for_each(|value| w.u64(value))
}
