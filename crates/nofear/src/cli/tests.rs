use std::os::unix::ffi::OsStrExt;

use clap::CommandFactory;

use super::*;

fn run(arguments: &[&str]) -> Result<RunArgs, clap::Error> {
    let all = ["nofear", "run"].iter().chain(arguments);
    Cli::try_parse_from(all).map(|cli| match cli.action() {
        (_, Action::Run(run)) => *run,
        (_, other) => panic!("{other:?}"),
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
    let (_, Action::Run(run)) = Cli::try_parse_from(all).unwrap().action() else { panic!("not run") };
    assert_eq!(run.command[1], odd);
}

fn verb(arguments: &[&str]) -> Result<String, String> {
    let cli = Cli::try_parse_from(["nofear"].iter().chain(arguments)).map_err(|e| e.to_string())?;
    match cli.action() {
        (_, Action::Profile(verb)) => Ok(format!("{verb:?}")),
        (_, other) => panic!("{other:?}"),
    }
}

#[test]
fn the_old_flags_are_verbs() {
    for (old, new) in [
        (&["-l"][..], &["profile", "list"][..]),
        (&["--list-profiles"], &["profile", "list"]),
        (&["-n", "web"], &["profile", "new", "web"]),
        (&["-d", "web"], &["profile", "delete", "web"]),
        (&["--delete", "web", "--yes"], &["profile", "delete", "web", "-y"]),
    ] {
        assert_eq!(verb(old).unwrap(), verb(new).unwrap());
    }
    for wrong in [
        &["-l", "-n", "x"][..],
        &["-n", "../x"],
        &["-l", "profile", "list"],
        &["-l", "-y"],
        &[],
        &["profile"],
    ] {
        assert!(verb(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn a_run_has_the_default_profile_another_one_or_none() {
    assert_eq!(run(&["true"]).unwrap().profile.as_str(), "default");
    assert_eq!(run(&["-p", "web", "true"]).unwrap().profile.as_str(), "web");
    assert!(run(&["-t", "true"]).unwrap().temporary);
    assert!(run(&["-t", "-p", "web", "true"]).is_err());
    assert!(run(&["-t", "--disk-size", "2G", "true"]).is_err());
    assert_eq!(run(&["--disk-size", "2G", "true"]).unwrap().disk_size, Some(2 << 30));
    for wrong in ["../x", "-x", "", "a/b"] {
        assert!(run(&["-p", wrong, "true"]).is_err(), "{wrong}");
    }
}

#[test]
fn options_about_windows_need_windows() {
    use crate::gui::options::Clipboard;

    let with = run(&["-g", "--keep", "--clipboard", "to-host", "xterm", "-g"]).unwrap();
    assert_eq!((with.gui.gui, with.gui.keep, with.gui.clipboard), (true, true, Clipboard::ToHost));
    assert_eq!(with.command, ["xterm", "-g"]);
    let without = run(&["true"]).unwrap();
    assert_eq!((without.gui.gui, without.gui.keep, without.gui.clipboard), (false, false, Clipboard::None));
    for wrong in
        [&["--keep", "true"][..], &["--clipboard", "both", "true"], &["-g", "--clipboard", "yes", "true"]]
    {
        assert!(run(wrong).is_err(), "{wrong:?}");
    }
}
