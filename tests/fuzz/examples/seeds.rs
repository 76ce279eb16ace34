//! Makes seeds for the fuzz targets of the 9P server from a recorded session of Linux's client: see `record.sh`.
//!
//! `seeds RECORDING FOLDER`: the recording has requests, one after the other; a session begins with Tversion. The
//! seeds go to `FOLDER/TARGET/NAME`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::{env, fs};

use ninep::client::{encode, message_kind};
use ninep::wire::{Request, Step, Walk};

/// Of each kind of message, for the codec.
const EACH_KIND: usize = 2;

/// What a target takes from one input.
const MOST_MESSAGES: usize = 256;
const MOST_ACTIONS: usize = 48;

/// Longer data of a Twrite tells the targets nothing new.
const MOST_DATA: usize = 64;

/// Where the recorded tree's shares are in the trees of the targets.
const SESSION_NAMES: [(&[u8], &[u8]); 2] = [(b"0", b"rw"), (b"1", b"share")];
const DEVICE_NAMES: [(&[u8], &[u8]); 2] = [(b"0", b"."), (b"1", b".")];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = env::args_os().skip(1).collect();
    let [recording, folder] = &arguments[..] else { return Err("usage: seeds RECORDING FOLDER".into()) };
    let (recording, folder) = (fs::read(recording)?, Path::new(folder));
    let write = |target: &str, name: String, seed: &[u8]| {
        let target = folder.join(target);
        fs::create_dir_all(&target).and_then(|()| fs::write(target.join(name), seed))
    };
    let mut kinds = BTreeMap::<u8, Vec<Vec<u8>>>::new();
    for (number, session) in sessions(&recording)?.iter().enumerate() {
        let name = |part: usize| format!("linux-{number}-{part}");
        let renamed =
            |names| -> Vec<_> { session.iter().map(|message| with_names(message, names)).collect() };
        for (part, messages) in renamed(SESSION_NAMES).chunks(MOST_MESSAGES).enumerate() {
            // Room for the longest reply that a target looks at.
            let mut seed = 8192_u16.to_le_bytes().to_vec();
            messages.iter().for_each(|message| element(&mut seed, &raw(message)));
            write("p9_session", name(part), &seed)?;
        }
        if let Some(messages) = renamed(DEVICE_NAMES).chunks(MOST_ACTIONS).next() {
            let mut seed = Vec::new();
            for message in messages {
                // The first variant, a request: cut after its header; room for a header, and for the rest.
                let mut action = [&[0; 4][..], &raw(message)].concat();
                list(&mut action, &[7]);
                list(&mut action, &[11, 8192]);
                element(&mut seed, &action);
            }
            write("p9_device", name(0), &seed)?;
        }
        for message in session {
            if let Ok(request) = Request::decode(message).request {
                let kept = kinds.entry(message_kind(&request)).or_default();
                if kept.len() < EACH_KIND && !kept.contains(message) {
                    kept.push(message.clone());
                }
            }
        }
    }
    for (kind, messages) in kinds {
        for (number, message) in messages.iter().enumerate() {
            write("p9_codec", format!("linux-{kind}-{number}"), message)?;
        }
    }
    Ok(())
}

/// The sessions of a recording, with the data of each Twrite cut short.
fn sessions(mut recording: &[u8]) -> Result<Vec<Vec<Vec<u8>>>, Box<dyn Error>> {
    let mut sessions: Vec<Vec<Vec<u8>>> = Vec::new();
    while let Some(size) = recording.first_chunk() {
        let size = u32::from_le_bytes(*size) as usize;
        let (message, rest) = recording.split_at_checked(size).ok_or("the recording is cut")?;
        recording = rest;
        let decoded = Request::decode(message);
        let request = match decoded.request? {
            Request::Write { fid, offset, data } => {
                Request::Write { fid, offset, data: &data[..data.len().min(MOST_DATA)] }
            }
            request => request,
        };
        if matches!(request, Request::Version { .. }) {
            sessions.push(Vec::new());
        }
        let session = sessions.last_mut().ok_or("the recording does not begin with Tversion")?;
        session.push(encode(decoded.tag, &request));
    }
    Ok(sessions)
}

/// A message with other names in its Twalk or Twalkattr.
fn with_names(message: &[u8], names: [(&[u8], &[u8]); 2]) -> Vec<u8> {
    let decoded = Request::decode(message);
    let (fid, new_fid, walked, attributes) = match decoded.request {
        Ok(Request::Walk { fid, new_fid, names }) => (fid, new_fid, names, false),
        Ok(Request::WalkAttributes { fid, new_fid, names }) => (fid, new_fid, names, true),
        _ => return message.to_vec(),
    };
    let mut renamed = Walk::EMPTY;
    for step in walked.steps() {
        let other = names.iter().find(|(from, _)| *from == step.as_bytes());
        let step = other.and_then(|(_, to)| Step::new(to).ok()).unwrap_or(*step);
        // As many as there were.
        let _ = renamed.push(step);
    }
    let request = match attributes {
        true => Request::WalkAttributes { fid, new_fid, names: renamed },
        false => Request::Walk { fid, new_fid, names: renamed },
    };
    encode(decoded.tag, &request)
}

// The other way round than `arbitrary` reads: a list is a one before each of its elements and a zero after them,
// a variant the part of u32's range that it has. `Raw` is the first variant of both targets' messages.

fn raw(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    message.iter().for_each(|byte| element(&mut bytes, &[*byte]));
    bytes.push(0);
    bytes
}

fn list(bytes: &mut Vec<u8>, numbers: &[u16]) {
    numbers.iter().for_each(|number| element(bytes, &number.to_le_bytes()));
    bytes.push(0);
}

fn element(bytes: &mut Vec<u8>, element: &[u8]) {
    bytes.push(1);
    bytes.extend(element);
}
