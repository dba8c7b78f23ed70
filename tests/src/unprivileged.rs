//! Runs the deployer as an unprivileged user.

use std::{ffi::OsStr, fs, os::unix::fs::MetadataExt as _, process::Stdio};

use tokio::process::Command;

use crate::{DeployerRun, Stack, program};

/// The user and group ID of `nobody` on Debian and most other systems.
const UNPRIVILEGED_ID: u32 = 65_534;

impl Stack {
    /// Runs the deployer as the user `nobody`. Without root it prints that this part is left out, and returns
    /// `None`.
    #[expect(
        clippy::print_stderr,
        reason = "a test that leaves a part out prints it"
    )]
    pub async fn run_unprivileged_deployer(
        &self,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> anyhow::Result<Option<DeployerRun>> {
        if fs::metadata("/proc/self")?.uid() != 0 {
            eprintln!("LEFT OUT: only root can run the deployer as another user");
            return Ok(None);
        }
        // Other users may have no access to the build directory.
        let deployer = self.path("deployer");
        fs::copy(program("deployer")?, &deployer)?;
        let child = Command::new(deployer)
            .args(arguments)
            .current_dir(self.path(""))
            .envs(environment.iter().copied())
            .uid(UNPRIVILEGED_ID)
            .gid(UNPRIVILEGED_ID)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Self::wait_for_exit(child, arguments).await.map(Some)
    }
}
