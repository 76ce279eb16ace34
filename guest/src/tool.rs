//! What the guest's one program does when guest root starts it by [`agent_proto::TOOL`].

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use agent_proto::TOOL_DIFF;
use rustix::mount::{MountFlags, mount};

use crate::Failure;
use crate::agent::opener;
use crate::boot::DISK;
use crate::changes;

/// For a name that is no tool's.
const NO_TOOL: i32 = 2;

/// Where a profile that is looked at is mounted.
const PROFILE: &str = "/run/nofear/profile";

/// Does what the name says; returns the exit status.
pub fn run(name: Option<&OsStr>) -> i32 {
    if name != Some(OsStr::new(TOOL_DIFF)) {
        return NO_TOOL;
    }
    match diff() {
        Ok(()) => 0,
        Err(e) => {
            // There is nobody else to tell.
            let _ = writeln!(io::stderr(), "{e}: {}", e.source);
            1
        }
    }
}

/// What the program in [`agent_proto::OPENER`] does; returns the exit status.
pub fn open_url(url: Option<&OsStr>) -> i32 {
    match opener::send(url) {
        Ok(()) => 0,
        Err(e) => {
            let _ = writeln!(io::stderr(), "open an address on the host: {e}");
            1
        }
    }
}

fn diff() -> Result<(), Failure> {
    std::fs::create_dir_all(PROFILE).map_err(Failure::of(format!("make {PROFILE}")))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount(DISK, PROFILE, c"ext4", flags, c"").map_err(Failure::of("mount the profile's disk"))?;
    let mut out = BufWriter::new(io::stdout().lock());
    let upper = Path::new(PROFILE).join("upper");
    changes::walk(&upper, Path::new("/run/nofear/host"), &mut |change| {
        agent_proto::write_frame(&mut out, &change)
    })
    .map_err(Failure::of("read the profile's files"))?;
    out.flush().map_err(Failure::of("write what was found"))
}
