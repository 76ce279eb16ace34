use std::os::unix::ffi::OsStrExt;

use clap::CommandFactory;

use super::*;

fn run(arguments: &[&str]) -> Result<RunArgs, clap::Error> {
    let all = ["nofear", "run"].iter().chain(arguments);
    Cli::try_parse_from(all).map(|cli| {
        let Command::Run(run) = cli.command;
        *run
    })
}

fn command(arguments: &[&str]) -> Vec<String> {
    run(arguments).unwrap().command.into_iter().map(|one| one.into_string().unwrap()).collect()
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn what_follows_the_program_belongs_to_it() {
    assert_eq!(command(&["ls", "-l", "--color", "-c", "2"]), ["ls", "-l", "--color", "-c", "2"]);
    assert_eq!(command(&["-c", "2", "ls", "--", "-x"]), ["ls", "--", "-x"]);
    assert_eq!(command(&["--", "ls", "-l"]), ["ls", "-l"]);
    assert_eq!(command(&["--", "-odd", "--help"]), ["-odd", "--help"]);
    assert_eq!(command(&["--root", "sh", "-c", "id", "--version"]), ["sh", "-c", "id", "--version"]);
    assert!(command(&["--root"]).is_empty());
    assert!(run(&["ls", "-c", "2"]).unwrap().cpus.is_none());
}

#[test]
fn an_unknown_option_is_not_taken_for_the_program() {
    assert!(run(&["--memm", "2G", "ls"]).is_err());
}

#[test]
fn options_are_read() {
    let run = run(&[
        "-c4",
        "-m",
        "1.5G",
        "-e",
        "A=b",
        "--env",
        "LANG",
        "-w",
        "/tmp",
        "--share",
        "/a:/b",
        "-f",
        "/c",
        "--append",
        "-x y=z",
        "--kernel",
        "/boot/k",
        "--console",
        "-vv",
    ])
    .unwrap();
    assert_eq!((run.cpus, run.memory), (Some(4), Some(1536 << 20)));
    assert_eq!((run.env.len(), run.verbose, run.console, run.root), (2, 2, true, false));
    assert_eq!(run.append.as_deref(), Some("-x y=z"));
    let shares = run.all_shares();
    assert_eq!(shares[0].guest.as_deref(), Some("/b".as_ref()));
    assert_eq!(shares[1], ShareSpec::parse_shared_folder("/c".as_ref()).unwrap());
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    for (arguments, part) in [
        (["-c", "0"], "1..=32"),
        (["-c", "33"], "1..=32"),
        (["-m", "1M"], "at least 64M"),
        (["-m", "big"], "1.5G"),
        (["-e", "=x"], "NAME"),
        (["--share", "/a:/b/../c"], "'..'"),
    ] {
        let error = run(&arguments).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn arguments_are_bytes() {
    let odd = OsStr::from_bytes(b"\xff\n'\"$");
    let all = ["nofear", "run", "printf"].map(OsString::from).into_iter().chain([odd.into()]);
    let Command::Run(run) = Cli::try_parse_from(all).unwrap().command;
    assert_eq!(run.command[1], odd);
}
