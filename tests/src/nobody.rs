//! The deployer run by an unprivileged user.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Stdio};

use tokio::process::Command;

use crate::{Run, Stack, program};

/// The user ID of `nobody` on Debian and most other systems.
const NOBODY: u32 = 65_534;

impl Stack {
    /// Runs the deployer as the user `nobody`. Returns `None`, and says so, if this test may not change its
    /// user.
    #[expect(
        clippy::print_stderr,
        reason = "a test that leaves something out says so"
    )]
    pub async fn deployer_of_nobody(
        &self,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> anyhow::Result<Option<Run>> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            eprintln!("LEFT OUT: only root can run the deployer as another user");
            return Ok(None);
        }
        // The build directory may be closed to other users.
        let deployer = self.path("deployer");
        fs::copy(program("deployer")?, &deployer)?;
        let child = Command::new(deployer)
            .args(arguments)
            .current_dir(self.path(""))
            .envs(environment.iter().copied())
            .uid(NOBODY)
            .gid(NOBODY)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Self::finish(child, arguments).await.map(Some)
    }
}
