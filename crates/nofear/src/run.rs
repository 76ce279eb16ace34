//! `nofear run`: from the options to the command's exit status.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use agent_proto::{CommandId, Configure, ProfileDisk, Run, SHARES_TAG, Stdio, User};
use anyhow::Context;
use ninep::Export;
use vmm::{Config, Console, Share};

use crate::cli::RunArgs;
use crate::control::protocol::{LifeState, Status};
use crate::detach::{self, Role};
use crate::environment::{self, environment};
use crate::network::publish;
use crate::profile::store::Profile;
use crate::runtime_dir::RuntimeDir;
use crate::session::Ending;
use crate::streams::StandardStreams;
use crate::terminal::{self, Terminal};
use crate::vm::{self, Conduct};
use crate::{exit, exports, gui, memory, network, profile, shares, user};

/// Runs the command in a new VM, and returns the exit status.
pub fn run(args: RunArgs) -> u8 {
    terminal::restore_on_panic();
    try_run(args).unwrap_or_else(|e| {
        log::error!("{e:#}");
        exit::FAILED
    })
}

fn try_run(mut args: RunArgs) -> anyhow::Result<u8> {
    let mut reporter = match args.detach {
        true => match detach::split(args.require_confinement)? {
            Role::Asker(status) => return Ok(status),
            Role::Keeper => return Ok(0),
            Role::Vm(reporter) => Some(reporter),
        },
        false => None,
    };
    let user = user::current();
    let terminal = Terminal::of_standard_streams().filter(|_| reporter.is_none());
    let (share_export, guest_shares) = shares::open(&args.all_shares())?.unzip();
    if args.gui.gui && args.command.is_empty() {
        args.command.push(gui::terminal::find()?.into());
    }
    let program = args.command.first().map(|program| program.display().to_string());
    let directory = args.workdir.as_ref().map(|directory| directory.display().to_string());
    let command = command(&mut args, &user, terminal.as_ref());

    if let Some(advice) = exports::advice().filter(|_| args.shares.is_empty()) {
        log::warn!("{advice}");
    }

    let runtime_dir = RuntimeDir::create(args.name.as_ref())?;
    let kept = match args.temporary {
        true => None,
        false => {
            let what = format!("VM {}", runtime_dir.id());
            let profile = profile::for_run(&args.profile, args.disk_size, &what)?;
            let in_use = profile.use_now()?;
            Some((profile, in_use))
        }
    };
    if let Some((profile, _)) = &kept {
        args.network = args.network.over(profile.description.settings.network()?);
    }
    let ports = publish::take(&args.network.publish)?;
    let mut configure = Configure {
        hostname: "nofear".into(),
        user,
        shares: guest_shares.unwrap_or_default(),
        time: vm::now(),
        machine_id: vm::random_id()?,
        profile: None,
        network: None,
        published: Vec::new(),
    };
    if let Some((profile, _)) = &kept {
        configure.hostname = profile.name.host_name();
        configure.machine_id = profile.description.machine_id_bytes()?;
        configure.profile = Some(ProfileDisk { fresh: profile.is_fresh() });
    }
    let mut streams = StandardStreams::of_process();
    if reporter.is_some() {
        // The standard error is for this program's own words.
        streams.error = streams.output;
    }
    let profile_name = kept.as_ref().map(|(profile, _)| profile.name.to_string());
    let windows = match args.gui.gui {
        true => {
            let colour = kept.as_ref().map(|(profile, _)| profile.description.settings.border());
            let look = gui::look::of(profile_name.as_deref(), colour.transpose()?.flatten().as_deref());
            let windows = gui::open(&args.gui, &configure.user, &look, &runtime_dir, terminal.is_some());
            Some(windows.context("show windows")?)
        }
        false => None,
    };
    let config = config(&args, share_export, kept.as_ref().map(|(profile, _)| profile))?;
    let network = network::open(&args.network, config.vcpus).context("set the network up")?;
    let ends = network.as_ref().map(|network| network.guest.ends.as_slice()).unwrap_or_default();
    let published = ports.lead_to(ends, &runtime_dir)?;
    let status = Status {
        vm: runtime_dir.id().into(),
        profile: profile_name,
        command: command.argv.iter().cloned().map(Into::into).collect(),
        state: LifeState::Starting,
        started: configure.time.0,
        memory: config.memory,
        cpus: config.vcpus,
        windows: windows.is_some(),
        display: windows.as_ref().map(|windows| windows.display.clone()),
    };
    if let Some(reporter) = &mut reporter {
        reporter.is(status.clone());
    }
    let mut reach = runtime_dir.reach()?;
    if let Some((_, in_use)) = &kept {
        reach = in_use.reach(reach)?;
    }
    let result = vm::conduct(Conduct {
        config,
        network,
        published: Some(published),
        runtime_dir: &runtime_dir,
        streams,
        terminal,
        configure,
        command,
        gui: windows,
        status: Some(status),
        reporter,
        reach,
        require_confinement: args.require_confinement,
        meanwhile: None,
    });
    if let (Some((_, in_use)), Ok(Ending::Command(_) | Ending::NotStarted { .. })) = (&kept, &result) {
        in_use.command_has_run();
    }
    let (status, message) = exit::status(result?, program.as_deref(), directory.as_deref());
    if let Some(message) = message {
        log::error!("{message}");
    }
    Ok(status)
}

/// What the agent is to start. Takes the arguments out of `args`.
fn command(args: &mut RunArgs, user: &User, terminal: Option<&Terminal>) -> Run {
    let root = args.root || user.uid == 0;
    let mut env = environment(std::env::vars_os(), user, root, terminal.is_some(), &args.env);
    if args.gui.gui {
        environment::add(&mut env, &gui::variables(user, &args.gui));
    }
    Run {
        command: CommandId(1),
        argv: std::mem::take(&mut args.command).into_iter().map(OsStringExt::into_vec).collect(),
        env,
        cwd: args.workdir.as_deref().map(OsStr::as_bytes).map(<[u8]>::to_vec),
        root,
        stdio: match terminal {
            Some(terminal) => Stdio::Terminal(terminal.size()),
            None => Stdio::Pipes,
        },
    }
}

/// The VM to be.
fn config(args: &RunArgs, shares: Option<Export>, profile: Option<&Profile>) -> anyhow::Result<Config> {
    let mut config = vm::config(args.kernel.as_deref())?;
    config.command_line = args.append.clone().unwrap_or_default();
    let settings = profile.map(|profile| profile.description.settings.clone()).unwrap_or_default();
    config.memory = args.memory.or(settings.memory()?).unwrap_or_else(memory::default);
    config.vcpus = args.cpus.or(settings.cpus()?).unwrap_or_else(vm::default_cpus);
    config.disks = profile.map(profile::disk).into_iter().collect();
    config.shares.extend(shares.map(|export| Share { tag: SHARES_TAG.into(), export }));
    config.console = if args.console { Console::Stderr } else { Console::Ring };
    Ok(config)
}
