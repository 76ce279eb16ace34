//! A share's two halves: the device, and the server of its files, in a process of its own or on the device's threads.

use std::os::fd::AsRawFd;

use ninep::{Export, Limits, Server};
use rustix::process::{Resource, getrlimit};
use virtio_9p::{NewError, NineP};

use crate::{Error, Policy, Process, Reach, Rights, Share, ThreadKind, apart, confine::confine, exit::Ends};

/// A share whose server runs, or is to run on the device's threads.
pub(crate) struct Served {
    pub device: NineP,
    /// Of its threads.
    pub name: String,
    /// What those need: nothing, where the server is apart.
    pub kind: ThreadKind,
    pub reach: Reach,
    /// The server's, which ends when the device has gone.
    pub process: Option<Process>,
}

/// Makes the devices of shares, and starts a process for each share's server if the policy says so and this process has
/// no threads yet. `ends` is told when one ends before its device.
pub(crate) fn serve(shares: Vec<Share>, policy: &Policy, ends: &Ends) -> Result<Vec<Served>, Error> {
    let are_apart =
        policy.processes && apart::is_alone().map_err(Error::system("count this process's threads"))?;
    let limits = match are_apart {
        true => limits(1, RESERVED_APART),
        false => limits(shares.len(), RESERVED),
    };
    let serve = |share| match are_apart {
        true => Served::apart(share, limits, policy.threads, ends.clone()),
        false => Served::here(share, limits, policy.threads),
    };
    shares.into_iter().map(serve).collect()
}

impl Served {
    fn here(share: Share, limits: Limits, confined: bool) -> Result<Self, Error> {
        let Share { tag, export } = share;
        let (kind, reach, name) = (kind(&export), reach(&export)?, format!("9p-{tag}"));
        let mut device = NineP::new(&tag, Server::new(export, limits)).map_err(failed)?;
        let pool = reach.clone();
        let enter = move || !confined || confine(kind, Ok(pool.clone()));
        device.start_threads(&name, enter).map_err(Error::system("start a share's threads"))?;
        Ok(Self { device, name, kind, reach, process: None })
    }

    fn apart(share: Share, limits: Limits, confined: bool, ends: Ends) -> Result<Self, Error> {
        let Share { tag, mut export } = share;
        let name = format!("9p-{tag}");
        let lost = {
            let name = name.clone();
            move || ends.send(Err(Error::ServerEnded(name)))
        };
        let (device, servant) = NineP::apart(&tag, limits, lost).map_err(failed)?;
        let keep: Vec<_> = export.descriptors().chain([servant.socket()]).map(|fd| fd.as_raw_fd()).collect();
        let process = Process::start(&name, &keep, || {
            let run = || {
                export.take_over()?;
                let (kind, reach) = (kind(&export), reach(&export)?);
                let enter = move || !confined || confine(kind, Ok(reach.clone()));
                servant.serve(&Server::new(export, limits), enter)?;
                Ok::<_, Box<dyn std::error::Error>>(())
            };
            if let Err(e) = run() {
                log::error!("the server of a share has ended: {e}");
            }
        })?;
        servant.keep_from_forks().map_err(Error::system("keep a share from other processes"))?;
        let (kind, reach) = (ThreadKind::Entropy, Reach::nothing()?);
        Ok(Self { device, name, kind, reach, process: Some(process) })
    }
}

fn kind(export: &Export) -> ThreadKind {
    if export.is_writable() { ThreadKind::WritableNineP } else { ThreadKind::NineP }
}

/// The granted trees, and nothing else.
fn reach(export: &Export) -> Result<Reach, Error> {
    export.grants().try_fold(Reach::nothing()?, |reach, (grant, writable)| {
        reach.and(grant, if writable { Rights::Change } else { Rights::Read })
    })
}

fn failed(error: NewError) -> Error {
    match error {
        NewError::Descriptor(e) => Error::system("descriptors for a share")(e),
        e => Error::Config(e.to_string()),
    }
}

/// Descriptors that are not for files of shares: KVM's, sockets, events.
const RESERVED: usize = 1024;

/// The same of a process that serves one share and nothing else.
const RESERVED_APART: usize = 64;

/// What each of so many servers in one process may hold, so that together they leave descriptors for the rest.
fn limits(servers: usize, reserved: usize) -> Limits {
    let all = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let share = usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(reserved) / servers.max(1);
    let default = Limits::default();
    Limits {
        open_files: default.open_files.min(share / 2),
        descriptors: default.descriptors.min(share / 4),
        ..default
    }
}
