//! `make bench`: what a switch costs clients, by this project's flag and by a reload of nginx; and
//! what the router costs. One run, its rounds interleaved, so that a noisy machine is noisy for all.

mod machine;
mod plain_router;
mod rig;
mod serving;
mod statistics;
mod switching;
mod table;
mod write_up;

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{machine::Machine, rig::Rig, serving::Serving, switching::Accounts};

/// Far above what the rounds add up to, also on a machine that is slow and busy.
const LONGEST: Duration = Duration::from_secs(330);

/// Measures switching and serving on this machine, over loopback.
#[derive(Parser)]
struct Arguments {
    /// The document to rewrite with the figures
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            progress(&format!("bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut machine = Machine::look().await?;
    let (switching, serving) = tokio::select! {
        measured = tokio::time::timeout(LONGEST, measure(&mut machine)) => {
            measured.with_context(|| format!("it took longer than {LONGEST:?}"))??
        }
        // Servers and nginx outlive whoever started them: end in order, so that they are stopped.
        name = stop_signal() => anyhow::bail!("stopped by {}", name?),
    };
    machine.look_for_others().await?;
    let figures = write_up::figures(&machine, &switching, &serving);
    writeln!(std::io::stdout(), "{figures}")?;
    if let Some(path) = &arguments.document {
        fs::write(path, write_up::document(&figures))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Judged last: figures that disappoint are written down like any others.
    switching::require_no_failure_by_flag(&switching)?;
    serving.require_no_failure()
}

async fn measure(machine: &mut Machine) -> anyhow::Result<(Vec<Accounts>, Serving)> {
    let rig = Rig::start().await?;
    let switching = switching::measure(&rig, machine).await?;
    let serving = serving::measure(&rig, machine).await?;
    Ok((switching, serving))
}

async fn stop_signal() -> anyhow::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}

/// Tells what goes on, beside the figures on standard output.
fn progress(text: &str) {
    // Nobody listening is no reason to stop half-way.
    let _ = writeln!(std::io::stderr(), "{text}");
}
