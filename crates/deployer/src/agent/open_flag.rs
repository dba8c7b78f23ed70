//! The flag `open`: nginx serves only while this file exists.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// The flag `open` of one router. It need not survive a power cut: the agent removes it at its start.
#[derive(Debug, Clone)]
pub(super) struct OpenFlag(PathBuf);

impl OpenFlag {
    /// The flag in this directory of flags.
    pub(super) fn in_directory(flags: &Path) -> Self {
        Self(flags.join("open"))
    }

    /// Lets nginx serve from the next request on. Returns whether it did not serve before.
    pub(super) fn create(&self) -> io::Result<bool> {
        let mut options = OpenOptions::new();
        // nginx does not read a flag. No umask makes it writable for other users.
        match options
            .create_new(true)
            .write(true)
            .mode(0o640)
            .open(&self.0)
        {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets nginx answer 503 from the next request on. Returns whether it served before.
    pub(super) fn remove(&self) -> io::Result<bool> {
        match fs::remove_file(&self.0) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
