//! Finds programs, and runs those that end by themselves.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

/// Returns the output of a command on one line. Fails if the command fails.
pub(super) async fn run(command: &mut Command) -> Result<String, String> {
    const TIMEOUT: Duration = Duration::from_secs(10);

    let program = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(TIMEOUT, output)
        .await
        .map_err(|_| format!("{program} does not end"))?
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let bytes = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&bytes).trim().replace('\n', " | ");
    if output.status.success() {
        Ok(text)
    } else {
        Err(text)
    }
}

/// Returns the path of a program, or its name if it is not found.
///
/// Debian keeps nginx in a directory that an ordinary user's PATH lacks.
pub(crate) fn find_program(name: &Path) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories =
        std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    // Joining replaces the directory if the name has one.
    directories
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| name.to_owned())
}
