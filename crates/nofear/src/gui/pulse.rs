//! The way of the windows' client to this machine's sound server: PulseAudio's protocol, of which it may say what
//! plays, and, if the user has asked for it, what records.
//!
//! Who reaches a sound server as its user can otherwise do far more: listen, load modules that write files, see what
//! else plays. The client reads what a hostile guest sends, so its commands are read here, one by one, and what is
//! not on the list is answered with "access denied" and never arrives. What the server says is passed on as it is.
//!
//! A packet is a header of five big-endian numbers (length, channel, two of an offset, flags) and that many bytes.
//! Channel -1 is a command, whose first two values are its number and a tag for the answer, each behind the letter
//! `L`; any other is samples. Descriptors and shared memory are not passed on, and both sides are told so.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, UCred, sendmsg};
use rustix::process::{getgid, getpid, getuid};

#[cfg(test)]
mod tests;

/// The most connections at once; a client has three or four.
const MAX_CONNECTIONS: usize = 16;

/// A packet's header, in bytes.
const HEADER: usize = 20;

/// The longest command, in bytes; an ordinary one has hundreds.
const MAX_COMMAND: usize = 64 << 10;

/// The longest packet of samples, in bytes; the server's own limit.
const MAX_SAMPLES: usize = 16 << 20;

/// The channel of commands.
const COMMANDS: u32 = u32::MAX;

const ERROR: u32 = 0;
const AUTH: u32 = 8;

/// "Access denied".
const ACCESS_DENIED: u32 = 1;

/// The part of AUTH's version that is one; the rest says that memory can be shared.
const VERSION: u32 = 0x0000_ffff;

/// By number: authorise, name the client, and all of a stream that plays; the server, and the sinks.
const TO_PLAY: [u32; 24] = [
    3, 4, // CREATE_ and DELETE_PLAYBACK_STREAM
    AUTH, 9,  // SET_CLIENT_NAME
    10, // LOOKUP_SINK
    12, // DRAIN_PLAYBACK_STREAM
    13, // STAT
    14, // GET_PLAYBACK_LATENCY
    20, // GET_SERVER_INFO
    21, 22, // GET_SINK_INFO, _LIST
    35, // SUBSCRIBE
    41, 42, 43, // CORK_, FLUSH_ and TRIGGER_PLAYBACK_STREAM
    46, // SET_PLAYBACK_STREAM_NAME
    60, // PREBUF_PLAYBACK_STREAM
    72, // SET_PLAYBACK_STREAM_BUFFER_ATTR
    74, // UPDATE_PLAYBACK_STREAM_SAMPLE_RATE
    81, 82, // UPDATE_PLAYBACK_STREAM_ and UPDATE_CLIENT_PROPLIST
    84, 85, // REMOVE_PLAYBACK_STREAM_ and REMOVE_CLIENT_PROPLIST
    86, // STARTED
];

/// And of one that records; the sources.
const TO_RECORD: [u32; 12] = [
    5, 6,  // CREATE_ and DELETE_RECORD_STREAM
    11, // LOOKUP_SOURCE
    23, 24, // GET_SOURCE_INFO, _LIST
    47, // SET_RECORD_STREAM_NAME
    57, // GET_RECORD_LATENCY
    58, 59, // CORK_ and FLUSH_RECORD_STREAM
    73, // SET_RECORD_STREAM_BUFFER_ATTR
    80, 83, // UPDATE_ and REMOVE_RECORD_STREAM_PROPLIST
];

/// Makes the socket, and serves those who come to it, each in a thread, until this process ends.
///
/// # Errors
///
/// When the socket can't be made. One that is there is a client's before, and makes room.
pub fn serve(socket: &Path, server: PathBuf, microphone: bool) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let count = Arc::new(AtomicUsize::new(0));
    thread::Builder::new().name("sound".into()).spawn(move || {
        for client in listener.incoming().flatten() {
            let count = Arc::clone(&count);
            if count.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
                count.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
            let server = server.clone();
            let connection = move || {
                // Either side's end is the other's.
                let _ = connect(&client, &server, microphone);
                count.fetch_sub(1, Ordering::Relaxed);
            };
            let _ = thread::Builder::new().name("sound".into()).spawn(connection);
        }
    })?;
    Ok(())
}

fn connect(client: &UnixStream, server: &Path, microphone: bool) -> io::Result<()> {
    let server = UnixStream::connect(server)?;
    // Two threads write to the client, a packet at a time.
    let to_client = Mutex::new(client);
    let write = |packet: &[u8]| to_client.lock().unwrap_or_else(PoisonError::into_inner).write_all(packet);
    let end = || [client, &server].map(|socket| drop(socket.shutdown(Shutdown::Both)));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut packet = Vec::new();
            while let Ok(Some(_)) = read(&mut &server, &mut packet, MAX_SAMPLES) {
                if write(&packet).is_err() {
                    break;
                }
            }
            end()
        });
        let result = filter(
            &mut &*client,
            &mut |packet| send(&server, packet),
            &mut |answer| write(answer),
            microphone,
        );
        end();
        result
    })
}

/// Sends a packet, and says whose it is: the server knows its user by that, and a message that comes before it has
/// asked for it would be nobody's.
fn send(mut server: &UnixStream, packet: &[u8]) -> io::Result<()> {
    let user = UCred { pid: getpid(), uid: getuid(), gid: getgid() };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmCredentials(user));
    let sent = sendmsg(server, &[IoSlice::new(packet)], &mut ancillary, SendFlags::NOSIGNAL)?;
    server.write_all(&packet[sent..])
}

/// A packet's channel and flags.
struct Header {
    channel: u32,
    flags: u32,
}

/// Reads a packet, its header included; none: there are no more.
fn read(from: &mut impl Read, packet: &mut Vec<u8>, longest_command: usize) -> io::Result<Option<Header>> {
    let mut header = [0; HEADER];
    match from.read_exact(&mut header) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let [length, channel, _, _, flags] =
        std::array::from_fn(|index| number(&header[4 * index..]).unwrap_or_default());
    let longest = if channel == COMMANDS { longest_command } else { MAX_SAMPLES };
    let length = usize::try_from(length).ok().filter(|length| *length <= longest);
    let length = length.ok_or_else(|| wrong("a packet that is too long"))?;
    packet.clear();
    packet.extend_from_slice(&header);
    // Bytes that are announced, but do not come, take no memory.
    let read = from.take(length as u64).read_to_end(packet)?;
    Ok((read == length).then_some(Header { channel, flags }))
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Passes a client's packets on until there are no more. `refuse` sends the client an answer.
fn filter(
    from: &mut impl Read,
    to: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    refuse: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    microphone: bool,
) -> io::Result<()> {
    let mut packet = Vec::new();
    while let Some(Header { channel, flags }) = read(from, &mut packet, MAX_COMMAND)? {
        // Flags that say what an offset is relative to are the only ones of a packet that carries its bytes.
        if flags & !0xff != 0 || (channel == COMMANDS && flags != 0) {
            return Err(wrong("shared memory, which was refused"));
        }
        if channel == COMMANDS {
            let command = tagged(&packet[HEADER..]).ok_or_else(|| wrong("no command"))?;
            let tag = tagged(&packet[HEADER + 5..]).ok_or_else(|| wrong("a command without a tag"))?;
            let allowed = TO_PLAY.contains(&command) || (microphone && TO_RECORD.contains(&command));
            if !allowed {
                refuse(&denied(tag))?;
                continue;
            }
            if command == AUTH {
                let at = HEADER + 10;
                let version = tagged(&packet[at..]).ok_or_else(|| wrong("no version"))?;
                packet[at + 1..at + 5].copy_from_slice(&(version & VERSION).to_be_bytes());
            }
        }
        to(&packet)?;
    }
    Ok(())
}

/// The answer to a command that is not passed on.
fn denied(tag: u32) -> Vec<u8> {
    let mut answer = Vec::with_capacity(HEADER + 15);
    for field in [15, COMMANDS, 0, 0, 0] {
        answer.extend(u32::to_be_bytes(field));
    }
    for value in [ERROR, tag, ACCESS_DENIED] {
        answer.push(b'L');
        answer.extend(value.to_be_bytes());
    }
    answer
}

/// The number behind the letter of its type.
fn tagged(bytes: &[u8]) -> Option<u32> {
    bytes.strip_prefix(b"L").and_then(number)
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}
