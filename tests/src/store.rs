//! `deployer store` of a test. Its file and its token are in one directory.

use std::{path::Path, process::Stdio};

use anyhow::ensure;
use tokio::process::{Child, Command};

use crate::program;

/// Creates the file of a new store in `directory`: blue has the traffic.
pub fn create_store(directory: &Path) -> anyhow::Result<()> {
    let created = std::process::Command::new(program("deployer")?)
        .args(["store", "--create", "blue", "--file"])
        .arg(directory.join("store.json"))
        .output()?;
    ensure!(created.status.success(), "{created:?}");
    Ok(())
}

/// Starts the store of `directory`. It may not answer yet.
pub fn start_store(directory: &Path, listen: &str, stderr: Stdio) -> anyhow::Result<Child> {
    let child = Command::new(program("deployer")?)
        .args(["store", "--listen", listen, "--file"])
        .arg(directory.join("store.json"))
        .arg("--token-file")
        .arg(directory.join("token"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}
