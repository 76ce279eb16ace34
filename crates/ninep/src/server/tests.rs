//! Whole sessions over trees on a temporary directory.

mod attacks;
mod files;
mod limits;
mod listing;
mod quotas;
mod writing;
mod writing_attacks;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::client::{Client, connect};
use crate::{Access, ExportBuilder};

/// What stands outside of every grant.
const CANARY: &str = "the content of the file outside";

/// `outside`, a canary, and `share`, which is granted at `/mnt/share`; `share/note` also as `/etc/note`, and
/// `/bin` as a link.
struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        fs::write(root.join("outside"), CANARY).unwrap();
        fs::create_dir_all(root.join("share/deep/deeper")).unwrap();
        fs::write(root.join("share/note"), "hello").unwrap();
        fs::write(root.join("share/deep/deeper/file"), vec![7; 100_000]).unwrap();
        symlink("../outside", root.join("share/link")).unwrap();
        symlink("..", root.join("share/up")).unwrap();
        symlink("deep", root.join("share/inner")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.join("share/fifo"),
            rustix::fs::FileType::Fifo,
            0o644.into(),
            0,
        )
        .unwrap();
        Self { directory }
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.directory.path().join(path)
    }

    fn grants(&self) -> ExportBuilder {
        ExportBuilder::new()
            .directory("/mnt/share", self.path("share"))
            .unwrap()
            .file("/etc/note", self.path("share/note"))
            .unwrap()
            .symlink("/bin", "usr/bin")
            .unwrap()
    }

    /// The share, writable; `outside` and the rest of the host are not.
    fn writable(&self) -> Server {
        let export = ExportBuilder::new()
            .directory_with("/mnt/share", self.path("share"), Access::READ_WRITE)
            .unwrap()
            .file("/etc/note", self.path("share/note"))
            .unwrap();
        Server::new(export.open().unwrap(), Limits::default())
    }

    fn server(&self) -> Server {
        self.server_with(Limits::default())
    }

    fn server_with(&self, limits: Limits) -> Server {
        Server::new(self.grants().open().unwrap(), limits)
    }
}

/// The fid of the export's root, and of `/mnt/share`.
const ROOT: u32 = 0;
const SHARE: u32 = 1;

/// A client that has attached and walked to the share.
fn session(server: &Server) -> Client<impl FnMut(&[u8]) -> Vec<u8>> {
    let mut client = connect(server, 1 << 20);
    client.version(64 << 10).unwrap();
    client.attach(ROOT).unwrap();
    assert_eq!(client.walk(ROOT, SHARE, "mnt/share").unwrap().len(), 2);
    client
}

/// A server and a session with all of `directory` granted at the root.
fn whole(directory: &Path) -> Server {
    Server::new(ExportBuilder::new().directory("/", directory).unwrap().open().unwrap(), Limits::default())
}
