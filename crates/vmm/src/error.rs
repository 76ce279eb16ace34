//! What can fail, and what a person can do about it.

use std::{io, path::PathBuf};

/// Why a VM could not be made, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value of the configuration is out of its range.
    #[error("invalid configuration: {0}")]
    Config(String),
    /// `/dev/kvm` could not be opened.
    #[error("open /dev/kvm: {}", kvm_advice(.0))]
    OpenKvm(#[source] io::Error),
    /// KVM is too old, or of another kind.
    #[error("KVM of this host lacks {0}; Linux 4.20 or later has it")]
    KvmLacks(&'static str),
    /// A KVM call failed.
    #[error("{call}")]
    Kvm {
        /// The ioctl's name.
        call: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM gave up on the guest.
    #[error(
        "KVM can't run the guest's code ({0}). A KVM inside another VM often can't start Linux: use the \
         machine's own, or switch nested virtualisation on"
    )]
    KvmGaveUp(String),
    /// A file or socket could not be opened.
    #[error("open {what} {path}")]
    Open {
        /// What it is to the VM.
        what: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A system call failed.
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
    /// The guest's memory could not be had.
    #[error("{mib} MiB of guest memory: {why}")]
    Memory {
        /// What was asked for.
        mib: u64,
        /// Why not.
        why: String,
    },
    /// The kernel can't be loaded.
    #[error("load the kernel")]
    Kernel(#[from] loader::Error),
    /// The 9P export is not sound.
    #[error("device {0}")]
    Device(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// A disk's image can't be used.
    #[error("open disk image {name}")]
    Disk {
        /// Its path, or the disk's name when it has none.
        name: String,
        /// Why.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A seccomp filter could not be made or installed.
    #[error("install a seccomp filter")]
    Seccomp(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A thread could not be held to some files.
    #[error("confine a thread by Landlock")]
    Landlock(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A process that serves a share has ended: it was killed, or made a system call that it must not.
    #[error("the server of the share {0} has ended")]
    ServerEnded(String),
    /// The policy asks for more than this host has.
    #[error("the VM can't be confined as required: {0}")]
    Unconfined(String),
}

impl Error {
    pub(crate) fn kvm(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { call, source }
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System(what, source)
    }
}

/// What to do when `/dev/kvm` can't be opened.
fn kvm_advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no KVM here. Switch virtualisation on in the firmware (VT-x, AMD-V, SVM), and load \
             the module kvm_intel or kvm_amd"
        }
        io::ErrorKind::PermissionDenied => {
            "no permission. Add yourself to the group kvm (`sudo usermod -aG kvm $USER`) and log in again"
        }
        _ => "it can't be used",
    }
}
