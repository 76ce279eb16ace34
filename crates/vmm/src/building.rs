//! What most VMs have, in a line each. The fields of [`Config`] say more.

use std::{
    os::{fd::OwnedFd, unix::net::UnixListener},
    path::{Path, PathBuf},
};

use ninep::ExportBuilder;

use crate::{
    Config, CustomDevice, Disk, DiskImage, Error, Initramfs, Share, ThreadKind, Vsock, VsockListener,
    virtio::Device,
};

/// A VM's CID when none was chosen: it is seen by its own guest only, so every guest can have the first.
const CID: u32 = 3;

impl Config {
    /// Gives the guest so many bytes of memory, a multiple of 2 MiB, at least [`MIN_MEMORY`](crate::MIN_MEMORY). More of
    /// it costs a start more: some 14 µs for each MiB.
    #[must_use]
    pub fn with_memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Adds a file to the initramfs.
    #[must_use]
    pub fn with_initramfs(mut self, file: impl Into<PathBuf>) -> Self {
        self.initramfs.push(Initramfs::File(file.into()));
        self
    }

    /// Adds a folder of the host, all of it, that the guest can mount over 9P by this tag of 1 to 36 bytes, and not
    /// change: `mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt`.
    ///
    /// # Errors
    ///
    /// The folder can't be opened.
    pub fn with_share(mut self, tag: impl Into<String>, folder: impl AsRef<Path>) -> Result<Self, Error> {
        let tag = tag.into();
        let export = ExportBuilder::new().directory("/", folder.as_ref()).and_then(ExportBuilder::open);
        let export = export.map_err(|e| Error::Device(format!("9p-{tag}"), Box::new(e)))?;
        self.shares.push(Share { tag, export });
        Ok(self)
    }

    /// Adds a disk that the guest can change: `/dev/vda`, `/dev/vdb` and so on.
    #[must_use]
    pub fn with_disk(mut self, image: impl Into<PathBuf>) -> Self {
        let id = format!("disk-{}", self.disks.len());
        self.disks.push(Disk { image: DiskImage::Path(image.into()), read_only: false, id });
        self
    }

    /// Connects who connects to a Unix socket of the host to this vsock port of the guest.
    #[must_use]
    pub fn with_listener(mut self, port: u32, socket: UnixListener) -> Self {
        let vsock = self.vsock.get_or_insert_with(|| Vsock { cid: CID, ..Vsock::default() });
        vsock.listen.push(VsockListener { port, socket: OwnedFd::from(socket), hold: None });
        self
    }

    /// Adds a device of your own, of this name, at most 15 bytes. Its thread is held to the least that any device needs,
    /// [`ThreadKind::Entropy`].
    #[must_use]
    pub fn with_device(mut self, name: impl Into<String>, device: impl Device + 'static) -> Self {
        let device =
            CustomDevice { name: name.into(), device: Box::new(device), thread: ThreadKind::Entropy };
        self.devices.push(device);
        self
    }
}
