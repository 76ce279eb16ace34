//! The arguments of `nofear profile`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::image;
use super::name::Name;

/// Options of `profile`.
#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do with profiles.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List all profiles, with their size on disk and last use
    List,
    /// Make a profile with an empty disk
    New {
        /// Its name: letters, digits, '-', '_' and '.'
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Size of its disk, which takes room only as it fills
        #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = image::parse_size)]
        disk_size: u64,
    },
    /// Show all there is to know of a profile
    Show {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Fix settings for all runs of a profile, or make its disk larger
    ///
    /// memory=SIZE and cpus=N, which options of 'nofear run' go before; border=#RRGGBB, the colour of its windows'
    /// borders; without a value, the default again.
    /// disk-size=SIZE makes the disk larger.
    ///
    /// Of the network: net=auto|tap|passt|none, lan=yes|no, offline=yes|no and mtu=BYTES, which options go before;
    /// allow, deny and publish, each with values as the option of that name takes them, between commas, which
    /// options are added to.
    Set {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// What to fix
        #[arg(required = true, value_name = "KEY=VALUE")]
        settings: Vec<String>,
    },
    /// Delete a profile and everything in it
    Delete {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Don't ask
        #[arg(short, long)]
        yes: bool,
    },
    /// Give a profile another name
    Rename {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Its new name
        #[arg(value_parser = Name::parse)]
        to: Name,
    },
    /// Make a profile that has what another one has now
    Clone {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// The new profile
        #[arg(value_parser = Name::parse)]
        to: Name,
    },
    /// Write a profile to one compressed file
    Export {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// The file [default: NAME.nofear-profile]
        file: Option<PathBuf>,
    },
    /// Make a profile of a file that 'export' wrote, or of a folder of the old tool, as ~/.lkvm/NAME
    Import {
        /// The file or folder
        file: PathBuf,
        /// The profile's name [default: the one it had]
        #[arg(value_parser = Name::parse)]
        name: Option<Name>,
    },
    /// Check a profile's file system, in a VM
    ///
    /// Repairs what can be repaired without loss. Exit status: 0 when it is clean now, 1 when it is not.
    Check {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Repair everything, even where something is lost
        #[arg(long)]
        repair: bool,
    },
    /// Show what a profile changed against this machine's files, in a VM
    Diff {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
    },
    /// Keep a profile's disk as it is now
    Snapshot {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// The snapshot's name [default: date and time]
        #[arg(value_parser = Name::parse)]
        label: Option<Name>,
    },
    /// Put a profile's disk back to a snapshot
    Rollback {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// The snapshot
        #[arg(value_parser = Name::parse)]
        label: Name,
    },
    /// List a profile's snapshots, or delete one
    Snapshots {
        /// The profile
        #[arg(value_parser = Name::parse)]
        name: Name,
        /// Delete this one
        #[arg(long, value_name = "LABEL", value_parser = Name::parse)]
        delete: Option<Name>,
    },
}
