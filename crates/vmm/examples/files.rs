//! The file server without a VMM: whatever carries bytes can carry 9P. Here it is two byte slices; each line of the
//! standard input is a path in FOLDER, of which the first bytes are shown.
//!
//! `echo hosts | cargo run --example files -- /etc`

use std::{
    env,
    error::Error,
    io::{self, BufRead, Write},
};

use ninep::{ExportBuilder, Limits, Server, client::connect};

const ROOT: u32 = 0;
const FILE: u32 = 1;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args_os().nth(1).ok_or("usage: files FOLDER")?;
    // What is not granted does not exist, and what is granted can't be changed.
    let export = ExportBuilder::new().directory("/", folder)?.open()?;
    let server = Server::new(export, Limits::default());
    // `server.serve(&request, &mut reply)` is all that it takes; this client, of the feature `testing`, calls that.
    let mut client = connect(&server, 8192);
    client.version(8192).map_err(io::Error::from)?;
    client.attach(ROOT).map_err(io::Error::from)?;
    for path in io::stdin().lock().lines() {
        let path = path?;
        let read = client.walk(ROOT, FILE, &path).and_then(|_| {
            let bytes = client.open(FILE, 0).and_then(|_| client.read(FILE, 0, 1024));
            client.clunk(FILE).and(bytes)
        });
        match read {
            Ok(bytes) => io::stdout().write_all(&bytes)?,
            Err(e) => println!("{path}: {}", io::Error::from(e)),
        }
    }
    Ok(())
}
