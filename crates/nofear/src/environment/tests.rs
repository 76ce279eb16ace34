use super::*;

fn environment_of(host: &[(&str, &str)], root: bool, terminal: bool, wanted: &[&str]) -> Vec<String> {
    let user = User {
        name: "ann".into(),
        uid: 1000,
        gid: 1000,
        home: "/home/ann".into(),
        shell: "/bin/bash".into(),
    };
    let wanted: Vec<Variable> =
        wanted.iter().map(|text| Variable::parse(OsStr::new(text)).unwrap()).collect();
    let host = host.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let all = environment(host, &user, root, terminal, &wanted);
    all.into_iter().map(|one| String::from_utf8(one).unwrap()).collect()
}

#[test]
fn nothing_of_the_host_but_language_time_zone_and_terminal_is_passed_on() {
    let host = [
        ("SSH_AUTH_SOCK", "/run/x"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("PATH", "/home/ann/bin"),
        ("HOME", "/home/real"),
        ("LANG", "de_DE.UTF-8"),
        ("LC_TIME", "C"),
        ("LD_PRELOAD", "x"),
        ("TERM", "xterm"),
        ("TZ", "UTC"),
    ];
    let common = ["HOME=/home/ann", "LANG=de_DE.UTF-8", "LC_TIME=C", "LOGNAME=ann"];
    let without = environment_of(&host, false, false, &[]);
    assert_eq!(without[..4], common);
    assert!(without[4].starts_with("PATH=/usr/local/sbin:"));
    assert_eq!(without[5..], ["SHELL=/bin/bash", "TZ=UTC", "USER=ann"]);
    let with = environment_of(&host, false, true, &[]);
    assert!(with.contains(&"TERM=xterm".to_owned()) && with.len() == without.len() + 1);
}

#[test]
fn wanted_variables_win_and_the_last_one_most() {
    let host = [("EDITOR", "vi"), ("LANG", "C")];
    let all = environment_of(&host, false, false, &["EDITOR", "LANG=x=y", "A=1", "A=", "MISSING", "PATH=/p"]);
    assert!(all.contains(&"EDITOR=vi".into()) && all.contains(&"LANG=x=y".into()));
    assert!(all.contains(&"A=".into()) && all.contains(&"PATH=/p".into()));
    assert!(all.iter().all(|one| !one.starts_with("MISSING") && one != "A=1"));
}

#[test]
fn root_has_the_home_of_root() {
    let all = environment_of(&[], true, false, &[]);
    assert!(all.contains(&"HOME=/root".into()) && all.contains(&"USER=root".into()));
}

#[test]
fn a_variable_needs_a_name_and_its_value_is_bytes() {
    assert!(Variable::parse(OsStr::new("=x")).is_err());
    assert!(Variable::parse(OsStr::new("")).is_err());
    let variable = Variable::parse(OsStr::from_bytes(b"A=\xff=\n")).unwrap();
    assert_eq!(variable.value.unwrap().as_bytes(), b"\xff=\n");
}

#[test]
fn variables_that_are_added_replace_none() {
    let mut env = vec![b"A=1".to_vec(), b"B".to_vec()];
    add(&mut env, &[b"A=2".to_vec(), b"AB=3".to_vec(), b"C=x=y".to_vec()]);
    assert_eq!(env, [b"A=1".to_vec(), b"B".to_vec(), b"AB=3".to_vec(), b"C=x=y".to_vec()]);
}
