//! The kernel modules that a stock kernel needs before the guest's root can be mounted.

use std::fs::File;
use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::kernel::report;

/// The list of the modules to load, in the initramfs. Our own kernel has none, and then no list.
const ORDER: &str = "/modules/order";

/// Loads what `/modules/order` names. A module that fails is reported and skipped: what needed it will say
/// so too.
pub fn load() {
    let order = match rustix::fs::open(ORDER, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => io::read_to_string(File::from(file)),
        Err(Errno::NOENT) => return,
        Err(e) => Err(e.into()),
    };
    let order = match order {
        Ok(order) => order,
        Err(e) => return report(&format!("read {ORDER}: {e}")),
    };
    for name in names(&order) {
        let path = format!("/modules/{name}");
        let loaded = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::system::finit_module(file, c"", 0));
        match loaded {
            // EEXIST: built in, or loaded by another's request_module.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => report(&format!("load module {name}: {e}")),
        }
        // The initramfs is memory that the guest would never get back. What can't be removed only stays.
        let _ = rustix::fs::unlink(&path);
    }
}

/// The module files of a list: one a line, empty lines and surrounding blanks left out.
fn names(order: &str) -> impl Iterator<Item = &str> {
    order.lines().map(str::trim).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
