//! `nofear`: runs a program of this machine in a virtual machine of its own.
//!
//! The command is one process. Its main thread holds the [`session`] with the guest's agent, three threads
//! pump the standard streams ([`streams`]), and the VM's threads are the `vmm` crate's.
#![deny(unsafe_code)]

mod cli;
mod control;
mod copy;
mod desktop;
mod detach;
mod doctor;
mod environment;
mod exit;
mod exports;
mod frames;
mod gui;
mod helper;
mod images;
mod json;
mod logging;
mod memory;
mod network;
mod open;
mod profile;
mod run;
mod runtime_dir;
mod session;
mod setup;
mod shares;
mod signals;
mod software;
mod streams;
mod sys;
mod terminal;
mod text;
mod user;
mod vm;

use clap::Parser;

use cli::Action;

fn main() {
    // The copy that `nofear setup` installs, and nothing else: what it can do is not for any other verb.
    if sys::has_rights_by_its_file() || std::env::args_os().nth(1).is_some_and(|verb| verb == helper::VERB) {
        std::process::exit(helper::main().into());
    }
    let status = match cli::Cli::try_parse() {
        Ok(cli) => {
            let (verbosity, action) = cli.action();
            logging::start(verbosity);
            match action {
                Action::Run(args) => run::run(*args),
                Action::Copy(args) => copy::run(args),
                Action::Exec(args) => control::exec::run(args),
                Action::Net(args) => control::net::run(&args),
                Action::Ps(args) => control::ps::run(&args),
                Action::Setup(args) => setup::run(&args),
                Action::Stop(args) => control::stop::run(&args),
                Action::Manage(what) => control::manage::run(&what),
                Action::Logs(args) => control::logs::run(&args),
                Action::Console(args) => control::console::run(&args),
                Action::Wait(args) => control::wait::run(&args),
                Action::Attach(args) => gui::attach::run(&args),
                Action::Desktop(args) => desktop::run(args),
                Action::Generate(args) => cli::generate::run(&args),
                Action::Open(args) => open::run(&args),
                Action::AskToOpenUrls(args) => gui::opener::run(args),
                Action::Doctor => doctor::run(),
                Action::KeepWindowClient(args) => gui::keeper::run(args),
                Action::Profile(verb) => profile::commands::run(verb),
            }
        }
        Err(e) => {
            // Fails only when there is nobody to read it.
            let _ = e.print();
            if e.use_stderr() { exit::FAILED } else { 0 }
        }
    };
    // Returning from main would do the same; a pump may still wait for the standard input.
    std::process::exit(status.into());
}
