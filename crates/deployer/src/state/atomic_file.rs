//! Files that are replaced atomically.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Replaces a file atomically and durably: a reader sees the old or the new content, also after a power cut.
/// Keeps the file's permissions.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let temporary = temporary(path);
    let file = File::create(&temporary)?;
    if let Ok(metadata) = fs::metadata(path) {
        file.set_permissions(metadata.permissions())?;
    }
    put_in_place(file, &temporary, path, text)
}

/// Replaces a file that only its owner may read, as [`replace`] does. Creates its directory for the owner only.
pub fn replace_private(path: &Path, text: &str) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        let mut directories = DirBuilder::new();
        directories.recursive(true).mode(0o700);
        directories.create(directory)?;
    }
    let temporary = temporary(path);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&temporary)?;
    // A killed process may have left the file with another mode.
    file.set_permissions(Permissions::from_mode(0o600))?;
    put_in_place(file, &temporary, path, text)
}

fn temporary(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    temporary.into()
}

fn put_in_place(mut file: File, temporary: &Path, path: &Path, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}
