use std::io::{Read, Write};

use rustix::pipe::{PipeFlags, pipe, pipe_with};

use super::*;

#[test]
fn a_non_blocking_standard_stream_is_waited_for() {
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    let (ours, mut guest) = UnixStream::pair().unwrap();
    let pump = thread::spawn(move || pump_in(reader.as_fd(), &ours));
    thread::sleep(std::time::Duration::from_millis(20));
    rustix::io::write(&writer, b"late").unwrap();
    drop(writer);
    let mut text = String::new();
    guest.read_to_string(&mut text).unwrap();
    assert_eq!(text, "late");
    pump.join().unwrap().unwrap();
}

#[test]
fn a_command_that_closes_its_input_ends_the_pump_without_an_error() {
    let (reader, writer) = pipe().unwrap();
    let (ours, guest) = UnixStream::pair().unwrap();
    drop(guest);
    rustix::io::write(&writer, b"x").unwrap();
    pump_in(reader.as_fd(), &ours).unwrap();
}

#[test]
fn an_input_that_cannot_be_read_ends_the_guests_input_too() {
    let directory = std::fs::File::open("/").unwrap();
    let (ours, mut guest) = UnixStream::pair().unwrap();
    assert!(pump_in(directory.as_fd(), &ours).is_err());
    assert_eq!(guest.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_slow_reader_gets_every_byte() {
    let (reader, writer) = pipe_with(PipeFlags::NONBLOCK).unwrap();
    rustix::io::ioctl_fionbio(&reader, false).unwrap();
    let (ours, mut guest) = UnixStream::pair().unwrap();
    let pump = thread::spawn(move || pump_out(&ours, writer.as_fd()));
    let feed = thread::spawn(move || guest.write_all(&[7; 500_000]).unwrap());
    thread::sleep(std::time::Duration::from_millis(20));
    let mut bytes = Vec::new();
    std::fs::File::from(reader).read_to_end(&mut bytes).unwrap();
    assert!(bytes.len() == 500_000 && bytes.iter().all(|byte| *byte == 7));
    feed.join().unwrap();
    pump.join().unwrap().unwrap();
}

#[test]
fn events_wake_the_session() {
    let (notifier, inbox) = inbox().unwrap();
    let ready = || poll(&mut [PollFd::new(&inbox, PollFlags::IN)], Some(&rustix::time::Timespec::default()));
    assert_eq!(ready().unwrap(), 0);
    notifier.tell(Event::VmEnded("x".into()));
    assert_eq!(ready().unwrap(), 1);
    inbox.clear();
    assert!(matches!(inbox.next(), Some(Event::VmEnded(why)) if why == "x"));
    assert!(inbox.next().is_none());
    assert_eq!(ready().unwrap(), 0);
}
