//! Serves a directory over a Unix socket, for those who want to try the server, and for tests.
//!
//! ```sh
//! cargo run --example unix_server -- /tmp/socket ~/project rw
//! mount -t 9p -o trans=unix,version=9p2000.L,access=any /tmp/socket /mnt
//! ```

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;

use ninep::wire::HEADER;
use ninep::{Access, Export, ExportBuilder, Limits, Server};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, directory, mode @ ..] = &arguments[..] else {
        return Err("usage: unix_server SOCKET DIRECTORY [rw]".into());
    };
    let access = if mode.iter().any(|mode| mode == "rw") { Access::READ_WRITE } else { Access::READ_ONLY };
    let export = Arc::new(ExportBuilder::new().directory_with("/", directory, access)?.open()?);
    let listener = UnixListener::bind(socket)?;
    for stream in listener.incoming() {
        let (stream, export) = (stream?, Arc::clone(&export));
        // A session for each connection; what one client does is no matter to the others.
        std::thread::spawn(move || serve(stream, export));
    }
    Ok(())
}

/// Answers one client until it is gone, or sends what can't be a message.
fn serve(mut stream: UnixStream, export: Arc<Export>) -> io::Result<()> {
    let server = Server::new(export, Limits::default());
    let msize = server.limits().msize as usize;
    let (mut request, mut reply) = (Vec::new(), vec![0; msize]);
    loop {
        let mut size = [0; 4];
        stream.read_exact(&mut size)?;
        // The stream has no other way to tell where the next message begins.
        let length = u32::from_le_bytes(size) as usize;
        if !(HEADER..=msize).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        request.clear();
        request.extend(size);
        request.resize(length, 0);
        stream.read_exact(&mut request[4..])?;
        let length = server.serve(&request, &mut reply[..]);
        stream.write_all(&reply[..length])?;
    }
}
