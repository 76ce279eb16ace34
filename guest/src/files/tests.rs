use super::*;

fn user(name: &str, uid: u32, gid: u32, home: &str) -> User {
    User { name: name.into(), uid, gid, home: home.into(), shell: "/bin/bash".into() }
}

fn made_for(user: User) -> Vec<Entry> {
    files(&configure(user)).unwrap()
}

fn configure(user: User) -> Configure {
    Configure {
        hostname: "nofear-x".into(),
        user,
        shares: Vec::new(),
        time: (0, 0),
        machine_id: [0xab; 16],
        profile: None,
        network: None,
        published: Vec::new(),
    }
}

fn entry<'a>(files: &'a [Entry], path: &str) -> &'a Entry {
    files.iter().find(|entry| entry.path == Path::new(path)).unwrap()
}

fn text<'a>(files: &'a [Entry], path: &str) -> &'a str {
    match &entry(files, path).kind {
        Kind::File(text) => text,
        other => panic!("{path} is {other:?}"),
    }
}

#[test]
fn the_user_has_the_numbers_and_the_home_of_the_host() {
    let files = made_for(user("ann", 1000, 1001, "/home/ann"));
    assert!(text(&files, "etc/passwd").contains("\nann:*:1000:1001:ann:/home/ann:/bin/bash\n"));
    assert!(text(&files, "etc/group").contains("\nann:x:1001:\n"));
    let home = entry(&files, "home/ann");
    assert_eq!((home.mode, home.owner), (0o700, (1000, 1001)));
}

#[test]
fn a_home_in_an_unusual_place_gets_its_folders_in_order() {
    let files = made_for(user("ann", 1000, 1000, "/srv/people/ann"));
    let at = |path: &str| files.iter().position(|entry| entry.path == Path::new(path)).unwrap();
    assert!(at("srv") < at("srv/people") && at("srv/people") < at("srv/people/ann"));
    assert_eq!(entry(&files, "srv").owner, (0, 0));
}

#[test]
fn a_host_user_who_is_root_is_guest_root() {
    let files = made_for(user("root", 0, 0, "/home/odd"));
    assert_eq!(text(&files, "etc/passwd").matches(":*:0:0:").count(), 1);
    assert_eq!(text(&files, "etc/group").matches(":x:0:").count(), 1);
    assert!(files.iter().all(|entry| entry.path != Path::new("home/odd")));
    assert_eq!(entry(&files, "root").mode, 0o700);
}

#[test]
fn no_name_and_no_number_stands_twice() {
    for (name, uid, gid) in
        [("nobody", 1000, 1000), ("ann", 65534, 65534), ("daemon", 1, 1), ("users", 7, 7), ("ann", 1000, 100)]
    {
        let files = made_for(user(name, uid, gid, "/home/x"));
        for (path, user_id) in [("etc/passwd", uid), ("etc/group", gid)] {
            let lines: Vec<Vec<&str>> =
                text(&files, path).lines().map(|line| line.split(':').collect()).collect();
            for column in [0, 2] {
                let mut values: Vec<_> = lines.iter().map(|line| line[column]).collect();
                values.sort_unstable();
                let count = values.len();
                values.dedup();
                assert_eq!(values.len(), count, "{name} {uid}: {path}");
            }
            assert!(lines.iter().any(|line| line[2] == user_id.to_string()), "{name} {uid}: {path}");
        }
    }
}

#[test]
fn every_folder_comes_before_what_it_holds() {
    let files = made_for(user("ann", 1000, 1000, "/var/lib/people/ann"));
    for (at, entry) in files.iter().enumerate() {
        let parent = entry.path.parent().unwrap();
        assert!(
            parent == Path::new("") || files[..at].iter().any(|earlier| earlier.path == parent),
            "{entry:?}"
        );
        assert!(files[..at].iter().all(|earlier| earlier.path != entry.path), "{entry:?}");
    }
}

#[test]
fn the_machine_id_is_32_lower_case_digits() {
    let files = made_for(user("ann", 1000, 1000, "/home/ann"));
    assert_eq!(text(&files, "etc/machine-id"), format!("{}\n", "ab".repeat(16)));
}

#[test]
fn a_name_that_would_add_a_line_is_refused() {
    let mut configure = configure(user("ann\nroot2:*:0:0", 1000, 1000, "/home/ann"));
    assert_eq!(files(&configure), Err(Unusable { what: "user's name" }));
    configure.user = user("ann", 1000, 1000, "/home:x");
    assert_eq!(files(&configure), Err(Unusable { what: "user's home" }));
    configure.user.home = "/home/ann".into();
    configure.hostname.clear();
    assert_eq!(files(&configure), Err(Unusable { what: "host name" }));
}

#[test]
fn a_profile_that_gets_another_name_changes_its_own_line_of_hosts_alone() {
    let made = made_for(user("ann", 1000, 1000, "/home/ann"));
    let hosts = format!("{}10.0.0.1\tnofear-xy\n", text(&made, "etc/hosts"));
    let renamed = renamed_hosts(&hosts, "nofear-x", "nofear-y").unwrap();
    assert_eq!(renamed, hosts.replace("127.0.1.1\tnofear-x\n", "127.0.1.1\tnofear-y\n"));
    assert_eq!(renamed_hosts(&hosts, "nofear-x", "nofear-x"), None);
    assert_eq!(renamed_hosts("127.0.0.1\tlocalhost\n", "nofear-x", "nofear-y"), None);
}

#[test]
fn a_profile_of_another_user_lacks_a_line_and_one_of_this_user_none() {
    let ann = user("ann", 1000, 1001, "/home/ann");
    let made = made_for(ann.clone());
    let (passwd, group) = (text(&made, "etc/passwd"), text(&made, "etc/group"));
    assert_eq!(missing_user(passwd, &ann), None);
    assert_eq!(missing_group(group, &ann), None);
    let bob = user("bob", 1002, 1003, "/home/bob");
    assert_eq!(missing_user(passwd, &bob).unwrap(), "bob:*:1002:1003:bob:/home/bob:/bin/bash\n");
    assert_eq!(missing_group(group, &bob).unwrap(), "bob:x:1003:\n");
}
