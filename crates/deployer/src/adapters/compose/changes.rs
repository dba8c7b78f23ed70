//! Commands that change containers: one at a time, also if the deployer no longer waits for the last one.

use std::{
    io,
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    process::Command,
    sync::{Mutex, oneshot},
    time::timeout,
};

/// How long an abandoned command may take to end by itself. Interrupted in the middle, `docker compose up` leaves a container
/// under a temporary name, which the next one cannot replace.
const MAX_WAIT_FOR_END: Duration = Duration::from_secs(20);
/// How long a command may take to end after SIGTERM.
const MAX_WAIT_AFTER_SIGNAL: Duration = Duration::from_secs(10);

/// Runs one command at a time.
#[derive(Debug, Default)]
pub(super) struct Changes(Arc<Mutex<()>>);

impl Changes {
    /// Runs a command in a process group of its own. If this future is dropped, the next command
    /// waits for the end of this one: a `docker compose up` that still runs would start what `docker compose stop` has just stopped.
    pub(super) async fn run(&self, mut command: Command) -> io::Result<Output> {
        let turn = Arc::clone(&self.0).lock_owned().await;
        command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn()?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw);
        // Resolves when this future is dropped.
        let (_waits, abandoned) = oneshot::channel::<()>();
        let ended = tokio::spawn(async move {
            let mut output = Box::pin(child.wait_with_output());
            let output = tokio::select! {
                output = &mut output => output,
                _ = abandoned => {
                    if let Ok(output) = timeout(MAX_WAIT_FOR_END, &mut output).await {
                        output
                    } else {
                        end(group, output).await
                    }
                }
            };
            drop(turn);
            output
        });
        ended.await.map_err(io::Error::other)?
    }

    /// Waits until no command runs. An abandoned command that does not end is ended.
    pub(super) async fn await_abandoned(&self) {
        drop(self.0.lock().await);
    }
}

/// Ends the process group of a command, and waits for the command.
async fn end<T>(group: Option<Pid>, output: impl Future<Output = T> + Unpin) -> T {
    let mut output = output;
    signal(group, Signal::TERM);
    if let Ok(output) = timeout(MAX_WAIT_AFTER_SIGNAL, &mut output).await {
        return output;
    }
    signal(group, Signal::KILL);
    output.await
}

fn signal(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        // It may have ended by itself.
        let _ = kill_process_group(group, signal);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn shell(script: &str, directory: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(directory);
        command
    }

    /// Runs a command until it has begun, and abandons it.
    async fn begin_and_abandon(changes: &Changes, command: Command, log: &Path) {
        tokio::select! {
            _ = changes.run(command) => panic!("it does not end so soon"),
            () = async {
                while !log.exists() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            } => {}
        }
    }

    #[tokio::test]
    async fn abandoned_command_ends_before_the_next_one_begins() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let changes = Changes::default();
        let up = "echo up began >> log; sleep 0.3; echo up ended >> log";
        begin_and_abandon(&changes, shell(up, directory.path()), &log).await;
        let stop = shell("echo stop >> log", directory.path());
        assert!(changes.run(stop).await.unwrap().status.success());
        let log = fs::read_to_string(log).unwrap();
        assert_eq!(log, "up began\nup ended\nstop\n");
    }

    #[tokio::test]
    async fn command_that_does_not_end_is_ended_with_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let mut command = shell("sleep 1000 & wait", directory.path());
        command.process_group(0);
        let mut child = command.spawn().unwrap();
        let id = child.id().and_then(|id| i32::try_from(id).ok()).unwrap();
        let group = Pid::from_raw(id);
        end(group, Box::pin(child.wait())).await.unwrap();
        // An ended process is in its group until its parent, here init, has read its exit status.
        let gone = async {
            while rustix::process::test_kill_process_group(group.unwrap()).is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let gone = timeout(Duration::from_secs(10), gone).await;
        gone.expect("a process of the group is left");
    }
}
