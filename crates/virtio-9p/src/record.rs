//! Requests as a guest sends them, kept for the seeds of the fuzz targets. Only with the feature `record`.

use std::{env, fs::File, io::Write, path::PathBuf};

use virtio::Chain;

/// Names the folder of the recordings.
const FOLDER: &str = "NOFEAR_9P_RECORD";

/// A file that gets every request, one after the other: each begins with its size.
pub(crate) struct Recording(File);

impl Recording {
    /// The file named like the tag, in the folder that the environment names. None: there is no such folder.
    pub(crate) fn of(tag: &str) -> Option<Self> {
        let folder = PathBuf::from(env::var_os(FOLDER)?);
        File::create(folder.join(tag)).map(Self).ok()
    }

    /// Adds the request in a chain.
    pub(crate) fn add(&mut self, chain: &Chain) {
        let mut request = vec![0; chain.readable()];
        if chain.read_at(0, &mut request) {
            // A recording that ends early is seen by who wants it.
            let _ = self.0.write_all(&request);
        }
    }
}
