use std::collections::HashSet;

use super::*;

fn host(grant: usize, device: u64) -> Origin {
    Origin::Host { region: Origin::region(GrantId(grant)), device }
}

#[test]
fn files_of_different_devices_grants_and_the_server_have_different_paths() {
    let paths = QidPaths::default();
    let origins = [Origin::Server, host(0, 1), host(0, 2), host(1, 1), host(0, u64::MAX)];
    let inodes = [0, 1, 2, 3, (1 << 48) - 1, 1 << 48, 1 << 62, u64::MAX];
    let all: HashSet<u64> =
        origins.iter().flat_map(|origin| inodes.map(|inode| paths.path(*origin, inode))).collect();
    assert_eq!(all.len(), origins.len() * inodes.len());
}

#[test]
fn the_first_files_have_the_hosts_inode_numbers_in_linux() {
    let paths = QidPaths::default();
    // A request may meet the server's own folders before.
    paths.path(Origin::Server, 1);
    for inode in [2, 3, 1 << 32, (1 << 48) - 1] {
        assert_eq!(paths.path(host(0, 1), inode) + 2, inode);
    }
    // What git notes, the lower 32 bits, is the same for all others, too.
    assert_eq!(paths.path(host(0, 2), 7).wrapping_add(2) & 0xffff_ffff, 7);
    // An inode number that Linux could not make from any path is no other file's.
    assert_eq!(HashSet::from([0, 1, 2, 3].map(|inode| paths.path(host(0, 1), inode))).len(), 4);
}

#[test]
fn a_path_stays_the_same() {
    let paths = QidPaths::default();
    let first = [paths.path(host(0, 1), 7), paths.path(host(0, 2), u64::MAX)];
    paths.path(host(3, 3), 7);
    assert_eq!(first, [paths.path(host(0, 1), 7), paths.path(host(0, 2), u64::MAX)]);
}

#[test]
fn more_devices_than_the_table_holds_still_differ() {
    let paths = QidPaths::default();
    let all: HashSet<u64> = (0..5000).map(|device| paths.path(host(0, device), 7)).collect();
    assert_eq!(all.len(), 5000);
    assert!(paths.origins.read().unwrap().len() <= MAX_ORIGINS);
}

#[test]
fn a_version_is_never_zero_and_changes_with_a_nanosecond() {
    let time = |nsec| Time { sec: 1, nsec };
    let versions: HashSet<u32> = (0..1000).map(|nsec| qid_version(time(nsec), time(0))).collect();
    assert!(versions.len() > 990, "{} of 1000 differ", versions.len());
    assert!(!versions.contains(&0));
    assert_ne!(qid_version(Time::default(), Time::default()), 0);
}
