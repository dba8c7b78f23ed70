//! Who may read and write what the router needs.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::ensure;
use deployer::{color::Color, ports::Repeat};

use super::{Result, Toys};

/// Fails unless everything below a directory is the user's, and writable for no other user.
fn ensure_closed(directory: &Path, user: u32) -> Result {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
        ensure!(mode & 0o022 == 0, "{}: {mode:o}", path.display());
        ensure!(owner == user, "{}: {owner}", path.display());
        if metadata.is_dir() {
            ensure_closed(&path, user)?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_and_logs_are_closed_to_other_users() -> Result {
    let toys = Toys::start(Repeat::Always).await?;
    toys.ports.flags.set_fit(Color::Green, true).await?;
    toys.ask("GET", "/fine", "").await?;
    for (path, mode) in [
        ("run/flags", 0o750),
        ("run/flags/fit-green", 0o640),
        ("run/logs", 0o750),
        ("run/logs/access.log", 0o640),
        ("run/logs/shadow.log", 0o640),
        ("run/logs/error.log", 0o640),
    ] {
        let actual = fs::metadata(toys.stack.path(path))?.mode() & 0o7777;
        ensure!(actual == mode, "{path}: {actual:o}");
    }
    let user = fs::metadata("/proc/self")?.uid();
    ensure_closed(&toys.stack.path("run"), user)
}
