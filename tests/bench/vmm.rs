//! The VMM of the benchmarks: as an embedder would use it, with nothing of the command beside it.
//!
//! `bench-vmm KERNEL INITRAMFS LINE [TAG=DIRECTORY[,rw]...]`: LINE is added to the kernel's command line,
//! and each directory is a 9P share, read-only or not.

use std::{env, error::Error, ffi::OsStr};

use ninep::{Access, ExportBuilder};
use vmm::{Config, Exit, Initramfs, Policy, Share};

const USAGE: &str = "usage: vmm KERNEL INITRAMFS LINE [TAG=DIRECTORY[,rw]...]";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1);
    let mut next = || arguments.next().ok_or(USAGE);
    let (kernel, initramfs, line) = (next()?, next()?, next()?);
    let mut config = Config::new(kernel);
    config.memory = 512 << 20;
    config.initramfs.push(Initramfs::File(initramfs.into()));
    config.command_line = line.into_string().map_err(|_| "the line is no text")?;
    config.shares = arguments.map(|argument| share(&argument)).collect::<Result<_, _>>()?;
    let vm = config.prepare()?.confine(&Policy::default())?;
    let handle = vm.handle();
    let exit = vm.run()?;
    // What the guest had to say, if anything.
    eprint!("{}", String::from_utf8_lossy(&handle.console()));
    match exit {
        Exit::PowerOff => Ok(()),
        exit => Err(format!("the guest ended by {exit}").into()),
    }
}

fn share(argument: &OsStr) -> Result<Share, Box<dyn Error>> {
    let (tag, rest) = argument.to_str().and_then(|text| text.split_once('=')).ok_or(USAGE)?;
    let (directory, access) = match rest.strip_suffix(",rw") {
        Some(directory) => (directory, Access::READ_WRITE),
        None => (rest, Access::READ_ONLY),
    };
    let export = ExportBuilder::new().directory_with("/", directory, access)?.open()?;
    Ok(Share { tag: tag.into(), export })
}
