//! DNS messages (RFC 1035, RFC 6891), as far as a forwarder looks: one question, addresses in the answer, the
//! size that the asker takes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// What a message begins with: identifier, flags, four counts.
const HEADER: usize = 12;

/// A name's bytes in a message, at most, and its labels.
const MAX_NAME: usize = 255;

/// What an asker takes that says nothing of it.
const PLAIN_SIZE: usize = 512;

const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TRUNCATED: u8 = 0x02;
const RECURSION_DESIRED: u8 = 0x01;
const RECURSION_AVAILABLE: u8 = 0x80;

const A: u16 = 1;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const INTERNET: u16 = 1;

/// What the answer says when the question is not let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No name server answers.
    ServerFailure = 2,
    /// Policy.
    Refused = 5,
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The name, in lower case, without the last dot; bytes that are no plain text are escaped.
    pub name: String,
    /// Where it ends in its message; it begins behind the header.
    end: usize,
}

/// The question of a query that a forwarder takes: an ordinary one, with one question.
pub fn question(message: &[u8]) -> Option<Question> {
    let flags = *message.get(2)?;
    (flags & (RESPONSE | OPCODE) == 0).then_some(())?;
    read_question(message)
}

fn read_question(message: &[u8]) -> Option<Question> {
    (u16_at(message, 4)? == 1).then_some(())?;
    let mut name = String::new();
    let mut at = HEADER;
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        // A pointer, which a question has no use for.
        (length < 64 && at - HEADER + length <= MAX_NAME).then_some(())?;
        if !name.is_empty() {
            name.push('.');
        }
        for byte in message.get(at..at + length)? {
            match byte.to_ascii_lowercase() {
                byte @ (b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') => name.push(byte.into()),
                byte => name.push_str(&format!("\\{byte:03}")),
            }
        }
        at += length;
    }
    message.get(at..at + 4)?;
    Some(Question { name, end: at + 4 })
}

/// The longest answer that the asker takes.
pub fn size(message: &[u8]) -> usize {
    let stated = question(message).and_then(|question| {
        let mut at = question.end;
        let records =
            u16_at(message, 6)?.checked_add(u16_at(message, 8)?)?.checked_add(u16_at(message, 10)?)?;
        for _ in 0..records {
            let record = Record::read(message, at)?;
            if record.kind == OPT {
                return Some(record.class);
            }
            at = record.end;
        }
        None
    });
    usize::from(stated.unwrap_or(0)).max(PLAIN_SIZE)
}

/// A query of our own with the question of another: nothing else of the guest's leaves.
pub fn query(id: u16, message: &[u8], question: &Question, size: u16) -> Vec<u8> {
    let mut query = id.to_be_bytes().to_vec();
    query.extend([RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    query.extend(message.get(HEADER..question.end).unwrap_or_default());
    // The root, OPT, our size, no extended flags, no options.
    query.push(0);
    query.extend(OPT.to_be_bytes());
    query.extend(size.to_be_bytes());
    query.extend([0; 6]);
    query
}

/// Whether a message answers a query of ours.
pub fn answers(message: &[u8], query: &[u8]) -> bool {
    let same_question = || {
        let (ours, theirs) = (read_question(query)?, read_question(message)?);
        let kind = |message: &[u8], question: &Question| {
            Some([*message.get(question.end - 3)?, *message.get(question.end - 1)?])
        };
        (ours.name == theirs.name && kind(query, &ours) == kind(message, &theirs)).then_some(())
    };
    message.first_chunk::<2>() == query.first_chunk::<2>()
        && message.get(2).is_some_and(|flags| flags & RESPONSE != 0)
        && same_question().is_some()
}

/// The answer for the asker: its identifier and its question, byte for byte; as many whole records of the answer
/// as it takes; none of the others, which say who else knows.
///
/// An answer that is cut is not marked so: the asker would come back by TCP. It has addresses enough.
pub fn reply(answer: &[u8], asked: &[u8], limit: usize) -> Option<Vec<u8>> {
    let theirs = read_question(answer)?;
    let ours = read_question(asked)?;
    // Names in the answer point into the question.
    (theirs.end == ours.end).then_some(())?;
    let mut reply = asked.get(..2)?.to_vec();
    let flags = answer.get(2..4)?;
    reply.extend([flags[0] & !TRUNCATED, flags[1]]);
    reply.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    reply.extend(asked.get(HEADER..ours.end)?);
    let mut at = theirs.end;
    let mut count: u16 = 0;
    for _ in 0..u16_at(answer, 6)? {
        let Some(record) = Record::read(answer, at) else { break };
        if record.end > limit {
            break;
        }
        reply.extend(answer.get(at..record.end)?);
        at = record.end;
        count += 1;
    }
    reply[6..8].copy_from_slice(&count.to_be_bytes());
    Some(reply)
}

/// An answer without records.
pub fn refusal(asked: &[u8], why: Refused) -> Option<Vec<u8>> {
    let question = read_question(asked)?;
    let mut reply = asked.get(..2)?.to_vec();
    reply.extend([RESPONSE | asked.get(2)? & RECURSION_DESIRED, RECURSION_AVAILABLE | why as u8]);
    reply.extend([0, 1, 0, 0, 0, 0, 0, 0]);
    reply.extend(asked.get(HEADER..question.end)?);
    Some(reply)
}

/// The addresses in an answer, and how long they hold.
pub fn addresses(message: &[u8]) -> Vec<(IpAddr, Duration)> {
    let mut found = Vec::new();
    let Some(mut at) = read_question(message).map(|question| question.end) else { return found };
    for _ in 0..u16_at(message, 6).unwrap_or(0) {
        let Some(record) = Record::read(message, at) else { break };
        let data = message.get(record.data..record.end).unwrap_or_default();
        let address = match (record.kind, record.class) {
            (A, INTERNET) => <[u8; 4]>::try_from(data).ok().map(|raw| IpAddr::V4(Ipv4Addr::from(raw))),
            (AAAA, INTERNET) => <[u8; 16]>::try_from(data).ok().map(|raw| IpAddr::V6(Ipv6Addr::from(raw))),
            _ => None,
        };
        found.extend(address.map(|address| (address, Duration::from_secs(record.ttl.into()))));
        at = record.end;
    }
    found
}

struct Record {
    kind: u16,
    class: u16,
    ttl: u32,
    data: usize,
    end: usize,
}

impl Record {
    fn read(message: &[u8], mut at: usize) -> Option<Self> {
        // The name, which is not followed: it ends with a pointer or with the root.
        loop {
            match *message.get(at)? {
                0 => break at += 1,
                length @ 1..64 => at += 1 + usize::from(length),
                0xc0.. => break at += 2,
                _ => return None,
            }
        }
        let ttl = u32::from_be_bytes(*message.get(at + 4..)?.first_chunk()?);
        let data = at + 10;
        let end = data + usize::from(u16_at(message, at + 8)?);
        message.get(..end)?;
        Some(Self { kind: u16_at(message, at)?, class: u16_at(message, at + 2)?, ttl, data, end })
    }
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    message.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
