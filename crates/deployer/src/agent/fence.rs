//! The agent's side of the fence process.

use std::{
    env,
    io::{self, Error, ErrorKind},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, Command},
    sync::watch,
    time::timeout,
};

use crate::agent::fence_process::Order;

/// A fence process that does not answer in this time is replaced.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// The fence process of this agent. It is started when it is first needed, and again after it died.
pub(super) struct Fence {
    flags: PathBuf,
    process: Option<Process>,
    last_number: u64,
}

struct Process {
    /// Kills the process when it is dropped.
    _child: Child,
    orders: ChildStdin,
    /// The number of the last order that is in force; closed if the process died.
    in_force: watch::Receiver<u64>,
    order: Order,
}

impl Fence {
    /// Creates a fence for the router with these flags, without a process.
    pub(super) fn new(flags: &Path) -> Self {
        Self {
            flags: flags.to_owned(),
            process: None,
            last_number: 0,
        }
    }

    /// Returns when an order is in force, at most after `patience`. After an error the fence process is gone, and guards
    /// nothing.
    pub(super) async fn give(&mut self, order: Order, patience: Duration) -> io::Result<()> {
        if let Some(process) = &self.process
            && process.order == order
            && process.in_force.has_changed().is_ok()
        {
            return Ok(());
        }
        self.last_number += 1;
        let number = self.last_number;
        let mut process = match self.process.take() {
            Some(process) if process.in_force.has_changed().is_ok() => process,
            _ => start(&self.flags)?,
        };
        let answered = async {
            process
                .orders
                .write_all(order.line(number).as_bytes())
                .await?;
            let in_force = process.in_force.wait_for(|last| *last >= number).await;
            in_force
                .map(drop)
                .map_err(|_| Error::new(ErrorKind::BrokenPipe, "it died"))
        };
        timeout(patience.min(ANSWER_TIMEOUT), answered)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::TimedOut, "it does not answer")))?;
        process.order = order;
        self.process = Some(process);
        Ok(())
    }
}

fn start(flags: &Path) -> io::Result<Process> {
    let mut child = Command::new(env::current_exe()?)
        .arg("agent-fence")
        .arg("--flags")
        .arg(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        // A signal to the agent's process group must not end it first.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let pipes = child.stdin.take().zip(child.stdout.take());
    let (orders, answers) = pipes.ok_or_else(|| Error::other("it has no pipes"))?;
    let (sender, in_force) = watch::channel(0);
    // Ends when the process ends.
    tokio::spawn(async move {
        let mut lines = BufReader::new(answers).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(number) = line.parse() else { return };
            sender.send_replace(number);
        }
    });
    Ok(Process {
        _child: child,
        orders,
        in_force,
        order: Order::Disarm,
    })
}
