//! nginx as a child of the agent.

use std::{
    env, ffi::OsString, io, os::unix::process::CommandExt as _, path::PathBuf, process::ExitStatus,
    time::Duration,
};

use clap::Args;
use rustix::process::{
    Pid, Signal, WaitOptions, getppid, kill_process, kill_process_group,
    set_parent_process_death_signal, waitpgid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::{
    adapters::process::program::find_program,
    agent::{keeper::Keeper, log::note},
};

/// How nginx is started.
#[derive(Debug, Clone)]
pub(super) struct NginxCommand {
    pub(super) program: PathBuf,
    pub(super) prefix: PathBuf,
    pub(super) configuration: PathBuf,
}

/// An nginx that runs, with its workers in a process group of its own.
struct NginxProcess {
    child: Child,
    group: Pid,
}

impl NginxCommand {
    /// Starts nginx. It finishes its requests and ends when the agent dies.
    fn start(&self) -> io::Result<NginxProcess> {
        // As root, nginx would run its workers as another user, who may not search the flag directory.
        let user = if rustix::process::geteuid().is_root() {
            " user root;"
        } else {
            ""
        };
        let child = Command::new(env::current_exe()?)
            .arg("agent-nginx")
            .arg(std::process::id().to_string())
            .arg(find_program(&self.program))
            // Until nginx has read its configuration, it logs where only root may write.
            .args(["-e", "stderr"])
            .arg("-p")
            .arg(&self.prefix)
            .arg("-c")
            .arg(&self.configuration)
            .arg("-g")
            .arg(format!("daemon off;{user}"))
            .process_group(0)
            .spawn()?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        let group = pid.and_then(Pid::from_raw);
        let group = group.ok_or_else(|| io::Error::other("nginx has no process ID"))?;
        Ok(NginxProcess { child, group })
    }
}

impl NginxProcess {
    /// Waits until nginx ends. Its workers outlive a master that was killed.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Lets workers without a master finish their requests. They stop listening at once, so `patience`, which bounds the
    /// wait, may be short.
    async fn end_workers(&self, patience: Duration) {
        const PAUSE: Duration = Duration::from_millis(20);

        let gone = async {
            // The agent is the parent of workers without a master, and takes their exit status.
            while kill_process_group(self.group, Signal::QUIT).is_ok() {
                while let Ok(Some(_)) = waitpgid(self.group, WaitOptions::NOHANG) {}
                sleep(PAUSE).await;
            }
        };
        let _ = timeout(patience, gone).await;
    }

    /// Lets nginx finish its requests, at most for `patience`.
    async fn stop(&mut self, patience: Duration) {
        if self.child.id().is_some() {
            let _ = kill_process(self.group, Signal::QUIT);
        }
        if timeout(patience, self.child.wait()).await.is_err() {
            let _ = kill_process_group(self.group, Signal::KILL);
            let _ = self.child.wait().await;
        }
    }
}

/// Keeps an nginx running.
pub(super) struct Supervisor {
    command: NginxCommand,
    process: Option<NginxProcess>,
}

impl Supervisor {
    /// Creates a supervisor that starts nothing yet.
    pub(super) fn new(command: NginxCommand) -> Self {
        Self {
            command,
            process: None,
        }
    }

    /// Starts nginx, and starts it again whenever it ended, until this is dropped. The router is closed in between.
    pub(super) async fn supervise(&mut self, keeper: &Keeper) {
        const SHORTEST_DELAY: Duration = Duration::from_millis(200);
        const LONGEST_DELAY: Duration = Duration::from_secs(5);
        /// An nginx that ran for this long was well.
        const WELL: Duration = Duration::from_secs(10);
        const PATIENCE: Duration = Duration::from_millis(500);

        let mut delay = SHORTEST_DELAY;
        loop {
            match self.command.start() {
                Ok(process) => {
                    let process = self.process.insert(process);
                    let started = Instant::now();
                    let ended = process.ended().await;
                    keeper.start_anew().await;
                    match ended {
                        Ok(status) => note(format_args!("nginx ended: {status}")),
                        Err(error) => note(format_args!("nginx was lost: {error}")),
                    }
                    process.end_workers(PATIENCE).await;
                    self.process = None;
                    if started.elapsed() > WELL {
                        delay = SHORTEST_DELAY;
                    }
                }
                Err(error) => note(format_args!("cannot start nginx: {error}")),
            }
            sleep(delay).await;
            delay = (delay * 2).min(LONGEST_DELAY);
        }
    }

    /// Lets nginx finish its requests, at most for `patience`.
    pub(super) async fn stop(&mut self, patience: Duration) {
        if let Some(mut process) = self.process.take() {
            process.stop(patience).await;
        }
    }
}

/// The arguments of the hidden command `agent-nginx`.
#[derive(Debug, Clone, Args)]
pub struct NginxArguments {
    /// The process ID of the agent
    pub parent: i32,
    /// nginx, and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<OsString>,
}

/// Replaces this process by nginx, to which the kernel sends SIGQUIT when the agent dies. Returns only if that fails.
pub(crate) fn become_nginx(arguments: &NginxArguments) -> io::Error {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::QUIT)) {
        return error.into();
    }
    // The agent may have died before.
    if getppid().map(Pid::as_raw_pid) != Some(arguments.parent) {
        return io::Error::other("the agent died");
    }
    let Some((program, rest)) = arguments.command.split_first() else {
        return io::Error::other("there is no program");
    };
    std::process::Command::new(program).args(rest).exec()
}
