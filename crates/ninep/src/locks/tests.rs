use std::fs::File;
use std::os::fd::AsFd;

use proptest::prelude::*;
use rustix::fs::FileType;

use super::*;
use crate::budget::Budget;
use crate::export::GrantId;

const SIZE: u64 = 12;

fn identity() -> Identity {
    Identity::server(GrantId::ROOT, FileType::RegularFile)
}

/// A client's locks on one file, and another program's view of it.
struct Setting {
    locks: Locks,
    file: File,
    other: OwnedFd,
    budget: Budget,
}

impl Setting {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let other = File::options().read(true).write(true).open(path).unwrap().into();
        Self { locks: Locks::default(), file, other, budget: Budget::new(1) }
    }

    fn open(&self) -> Result<(OwnedFd, Permit), Errno> {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.file.as_fd()));
        let file = File::options().read(true).write(true).open(path).unwrap();
        Ok((file.into(), self.budget.take().ok_or(Errno::NFILE)?))
    }

    fn set(&self, owner: Owner, kind: LockKind, start: u64, length: u64) -> Result<LockStatus, Errno> {
        self.locks.set(identity(), owner, kind, Range::new(start, length).unwrap(), || self.open())
    }

    /// What the other program sees of a byte.
    fn seen(&self, byte: u64) -> Option<bool> {
        let range = Range { start: byte, end: byte };
        let write = lock::conflict(&self.other, LockKind::READ, range).unwrap();
        let any = lock::conflict(&self.other, LockKind::WRITE, range).unwrap();
        any.map(|_| write.is_some())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set { process: u32, fid: usize, kind: u8, start: u64, length: u64 },
    Close { fid: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0..3_u32, 0..3_usize, 0..3_u8, 0..SIZE, 0..SIZE)
            .prop_map(|(process, fid, kind, start, length)| Step::Set { process, fid, kind, start, length }),
        1 => (0..3_usize).prop_map(|fid| Step::Close { fid }),
    ];
    prop::collection::vec(step, 0..30)
}

proptest! {
    #[test]
    fn the_host_sees_the_union_of_what_the_processes_hold(steps in steps()) {
        let setting = Setting::new();
        // By process and byte: the kind, and the fid that it came through. The last byte stands for all after.
        let mut model = vec![vec![None; SIZE as usize + 1]; 3];
        for step in steps {
            match step {
                Step::Set { process, fid, kind, start, length } => {
                    let owner = setting.locks.owner(process, b"guest", fid);
                    setting.set(owner, LockKind(kind), start, length).unwrap();
                    let end = if length == 0 { SIZE } else { (start + length - 1).min(SIZE) };
                    for byte in start..=end {
                        // A range that ends beyond the model's last byte but not at the end of all is not one of these.
                        if byte == SIZE && length != 0 { continue; }
                        model[process as usize][byte as usize] =
                            (kind != LockKind::UNLOCK.0).then_some((kind == LockKind::WRITE.0, fid));
                    }
                }
                Step::Close { fid } => {
                    setting.locks.release(identity(), fid);
                    for bytes in &mut model {
                        for byte in bytes.iter_mut() {
                            if byte.is_some_and(|(_, through)| through == fid) { *byte = None; }
                        }
                    }
                }
            }
            for byte in 0..=SIZE {
                let expected = model.iter().filter_map(|bytes| bytes[byte as usize]).map(|(write, _)| write).max();
                let probe = if byte == SIZE { 1000 } else { byte };
                prop_assert_eq!(setting.seen(probe), expected, "byte {}", byte);
            }
        }
        setting.locks.clear();
        prop_assert!((0..=SIZE).all(|byte| setting.seen(byte).is_none()));
        // The file's place is free again.
        prop_assert!(setting.budget.take().is_some());
    }
}

#[test]
fn a_lock_of_the_host_blocks_and_leaves_what_was_held() {
    let setting = Setting::new();
    let owner = setting.locks.owner(1, b"guest", 1);
    setting.set(owner, LockKind::READ, 0, 10).unwrap();
    assert!(lock::set(&setting.other, LockKind::WRITE, Range { start: 20, end: 29 }).unwrap());
    assert_eq!(setting.set(owner, LockKind::WRITE, 5, 20), Ok(LockStatus::Blocked));
    assert_eq!((setting.seen(4), setting.seen(9), setting.seen(15)), (Some(false), Some(false), None));
    let found =
        setting.locks.conflict(identity(), LockKind::READ, Range::new(0, 0).unwrap(), || setting.open());
    let (kind, range, _) = found.unwrap().unwrap();
    assert_eq!((kind, range.start, range.length()), (LockKind::WRITE, 20, 10));
    lock::set(&setting.other, LockKind::UNLOCK, Range { start: 0, end: u64::MAX }).unwrap();
    assert_eq!(setting.set(owner, LockKind::WRITE, 5, 20), Ok(LockStatus::Success));
    assert_eq!((setting.seen(4), setting.seen(9), setting.seen(24)), (Some(false), Some(true), Some(true)));
}

#[test]
fn locks_on_one_file_are_few() {
    let setting = Setting::new();
    let owner = setting.locks.owner(1, b"guest", 1);
    for index in 0..MAX_HELD as u64 {
        setting.set(owner, LockKind::WRITE, index * 2, 1).unwrap();
    }
    assert_eq!(setting.set(owner, LockKind::WRITE, 10_000, 1), Err(Errno::NOLCK));
    assert_eq!(setting.seen(10_000), None);
    setting.set(owner, LockKind::WRITE, 0, 0).unwrap();
    setting.set(owner, LockKind::UNLOCK, 0, 0).unwrap();
    assert_eq!(setting.seen(0), None);
}

#[test]
fn ranges_that_no_file_has_are_refused() {
    assert_eq!(Range::new(1 << 63, 1), Err(Errno::INVAL));
    assert_eq!(Range::new(1, u64::MAX), Ok(Range { start: 1, end: u64::MAX }));
    assert_eq!(Range::new(2, u64::MAX), Err(Errno::INVAL));
    assert_eq!(Range::new(i64::MAX as u64, 1), Ok(Range { start: i64::MAX as u64, end: u64::MAX }));
}
