//! Where tests end the deployer: around every entry of the journal and every change of a flag.
//!
//! Builds with debug assertions heed two variables: `DEPLOYER_KILL_POINTS` names a file that each
//! point passed is added to, and `DEPLOYER_KILL_AT` the point at which the process ends itself by
//! SIGKILL. Nothing of it is left in a release build.

use std::{env, fmt::Display, fs::OpenOptions, io::Write as _};

use rustix::process::{Signal, getpid, kill_process};

/// Passes the point that is named so.
pub(crate) fn pass(name: impl Display) {
    if !cfg!(debug_assertions) {
        return;
    }
    let name = name.to_string();
    if let Some(list) = env::var_os("DEPLOYER_KILL_POINTS") {
        let file = OpenOptions::new().create(true).append(true).open(list);
        // Whoever asks for the list finds it lacking.
        let _ = file.and_then(|mut file| writeln!(file, "{name}"));
    }
    if env::var("DEPLOYER_KILL_AT").is_ok_and(|at| at == name) {
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
