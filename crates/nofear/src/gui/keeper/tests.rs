use std::io::{BufRead, BufReader};
use std::thread;

use super::*;

/// Keeps a shell script in a thread.
fn keep_script(script: &str) -> (UnixStream, thread::JoinHandle<anyhow::Result<()>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut args = args("/bin/sh");
    args.command.extend(["-c".into(), script.into()]);
    (ours, thread::spawn(move || keep(args, &theirs)))
}

fn args(program: &str) -> KeeperArgs {
    KeeperArgs {
        landlock: false,
        readable: Vec::new(),
        tcp_port: None,
        sound_socket: None,
        sound_server: None,
        microphone: false,
        titles: String::new(),
        command: vec![program.into()],
    }
}

fn news(socket: &UnixStream) -> Vec<News> {
    BufReader::new(socket).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

#[test]
fn the_words_and_the_end_of_a_client_are_told() {
    let (socket, keeper) = keep_script("echo one; printf two >&2; exit 7");
    assert_eq!(news(&socket), [News::Said("one".into()), News::Said("two".into()), News::Exited(7)]);
    keeper.join().unwrap().unwrap();
    let (socket, _) = keep_script("kill -9 $$");
    assert_eq!(news(&socket), [News::Signaled(9)]);
    let (ours, theirs) = UnixStream::pair().unwrap();
    let error = keep(args("/no/such"), &theirs).unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error:#}");
    drop(ours);
}

#[test]
fn a_look_at_a_display_that_is_none_tells_nothing_and_ends_nothing() {
    let (mut socket, keeper) = keep_script("sleep 1; exit 3");
    socket.write_all(&[LOOK, LOOK]).unwrap();
    assert_eq!(news(&socket), [News::Exited(3)]);
    keeper.join().unwrap().unwrap();
}

#[test]
fn a_client_that_says_too_much_is_cut_short() {
    let (socket, _) = keep_script("yes | head -5000; head -c 100000 /dev/zero | tr '\\0' x");
    let news = news(&socket);
    assert_eq!(news.len(), MAX_LINES as usize + 1);
    assert!(news.iter().all(|one| !matches!(one, News::Said(line) if line.len() > MAX_LINE)));
}

#[test]
fn a_client_ends_when_nobody_is_there_any_more_whether_it_wants_or_not() {
    for script in
        ["echo ready; exec sleep 1000", "trap '' TERM; echo ready; sleep 1000 & while :; do wait; done"]
    {
        let (socket, keeper) = keep_script(script);
        let mut line = String::new();
        BufReader::new(&socket).read_line(&mut line).unwrap();
        assert!(line.contains("ready"), "{line}");
        drop(socket);
        keeper.join().unwrap().unwrap();
    }
}
