//! What kind of file it is, by this machine's MIME database (shared-mime-info).

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use xdg_mime::SharedMimeInfo;

/// What is looked at of a file, in bytes; the database's patterns lie in its beginning.
const BEGINNING: u64 = 16 << 10;

/// The most kinds that are looked for, from the file's own to what it is a special case of.
const MAX_KINDS: usize = 32;

/// The kinds of an open file, the most special first.
pub fn of(path: &Path, file: File) -> std::io::Result<Vec<String>> {
    let mut beginning = Vec::new();
    file.take(BEGINNING).read_to_end(&mut beginning)?;
    let database = SharedMimeInfo::new();
    let mut guess = database.guess_mime_type();
    if let Some(name) = path.file_name() {
        guess.file_name(&name.to_string_lossy());
    }
    let kind = guess.data(&beginning).guess();
    let mut queue = VecDeque::from([kind.mime_type().clone()]);
    let mut kinds = Vec::new();
    while let Some(kind) = queue.pop_front() {
        let kind = database.unalias_mime_type(&kind).unwrap_or(kind);
        let name = kind.essence_str().to_owned();
        if kinds.len() < MAX_KINDS && !kinds.contains(&name) {
            queue.extend(database.get_parents(&kind).unwrap_or_default());
            kinds.push(name);
        }
    }
    Ok(kinds)
}
