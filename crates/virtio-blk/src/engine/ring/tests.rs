use std::os::fd::AsFd;

use io_uring::{opcode, squeue::Flags};

use super::*;

/// A ring on a file of 4 KiB; none where this machine has no io_uring.
fn ring() -> Option<(Ring, std::fs::File)> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    match Ring::new(file.as_fd()) {
        Ok(ring) => Some((ring, file)),
        Err(e) => {
            eprintln!("SKIPPED: no io_uring: {e}");
            None
        }
    }
}

/// What the kernel says to an entry that no task made.
fn result(ring: &mut Ring, entry: &squeue::Entry) -> i32 {
    // SAFETY: what the entries below point to is static.
    unsafe { ring.ring.submission().push(entry) }.unwrap();
    ring.ring.submit_and_wait(1).unwrap();
    ring.ring.completion().next().unwrap().result()
}

#[test]
fn the_ring_takes_its_one_file_and_its_four_operations_only() {
    let Some((mut ring, file)) = ring() else { return };
    let fd = types::Fd(file.as_raw_fd());
    let path = c"/etc/passwd".as_ptr();
    let none = std::ptr::null();
    let fixed = Flags::FIXED_FILE;
    for (what, entry) in [
        ("a file that is not registered", opcode::Readv::new(fd, none, 0).build()),
        ("an open", opcode::OpenAt::new(fd, path).build()),
        ("an open, with the flag", opcode::OpenAt::new(fd, path).build().flags(fixed)),
        ("nothing", opcode::Nop::new().build().flags(fixed)),
        ("a linked entry", opcode::Fsync::new(IMAGE).build().flags(fixed | Flags::IO_LINK)),
        ("a socket", opcode::Socket::new(1, 1, 0).build().flags(fixed)),
    ] {
        assert_eq!(result(&mut ring, &entry), -libc::EACCES, "{what}");
    }
    assert_eq!(result(&mut ring, &opcode::Fsync::new(IMAGE).build()), 0);
    let other = result(&mut ring, &opcode::Fsync::new(types::Fixed(1)).build());
    assert_eq!(other, -libc::EBADF, "there is no second file");
}

#[test]
fn the_ring_can_not_be_changed_any_more() {
    let Some((ring, file)) = ring() else { return };
    let submitter = ring.ring.submitter();
    let refused = |result: io::Result<()>| result.unwrap_err().raw_os_error() == Some(libc::EACCES);
    assert!(refused(submitter.register_files_update(0, &[file.as_raw_fd()]).map(drop)));
    assert!(refused(submitter.unregister_files()));
    assert!(refused(submitter.register_iowq_max_workers(&mut [100, 100])));
}
