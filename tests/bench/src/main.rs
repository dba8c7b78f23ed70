//! `make bench`: the model server beside its peers; what a switch costs clients, by this project's
//! flag and by a reload of nginx; and what the router costs. What is compared is measured in one run,
//! its rounds interleaved, so that a noisy machine is noisy for all.

mod contender;
mod document;
mod face;
mod generator;
mod goals;
mod machine;
mod memory;
mod models;
mod oha;
mod overload;
mod paced;
mod plain_router;
mod rig;
mod serving;
mod soak;
mod statistics;
mod switching;
mod table;
mod texts;
mod write_up;
mod wrk;

use std::{fs, io::Write as _, num::NonZeroU32, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use crate::{document::Section, machine::Machine, rig::Rig};

/// Measures on this machine, over loopback.
#[derive(Parser)]
struct Arguments {
    /// What to measure
    what: What,

    /// The document whose section is rewritten with the figures
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,

    /// How long a soak takes
    #[arg(long, default_value = "60", value_name = "COUNT")]
    minutes: NonZeroU32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// The model server and its peers, on the same models (about half an hour)
    Models,
    /// Switching by flag and by reload, and what the router costs (about five minutes)
    Switching,
    /// Four times the load that the model server can bear (about a minute)
    Overload,
    /// The deployer's load generator beside wrk and oha (about four minutes)
    Generator,
    /// Whether the model server's memory grows
    Soak,
}

impl What {
    /// Far above what the rounds add up to, also on a machine that is slow and busy.
    fn longest(self) -> Duration {
        match self {
            Self::Models => Duration::from_mins(90),
            Self::Switching => Duration::from_secs(330),
            Self::Overload => Duration::from_mins(5),
            Self::Generator => Duration::from_mins(8),
            Self::Soak => Duration::from_hours(24),
        }
    }

    /// Where its figures are kept, if they are.
    fn section(self) -> Option<Section> {
        match self {
            Self::Models => Some(Section::Models),
            Self::Switching => Some(Section::Switching),
            Self::Overload => Some(Section::Overload),
            Self::Generator => Some(Section::Generator),
            Self::Soak => None,
        }
    }
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
    let longest = arguments.what.longest();
    let (figures, judged) = tokio::select! {
        measured = tokio::time::timeout(longest, measure(arguments, &mut machine)) => {
            measured.with_context(|| format!("it took longer than {longest:?}"))??
        }
        // Servers and nginx outlive whoever started them: end in order, so that they are stopped.
        name = stop_signal() => anyhow::bail!("stopped by {}", name?),
    };
    writeln!(std::io::stdout(), "{figures}")?;
    if let (Some(path), Some(section)) = (&arguments.document, arguments.what.section()) {
        let before = fs::read_to_string(path).unwrap_or_default();
        fs::write(path, section.replace_in(&before, &figures))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    // Judged last: figures that disappoint are written down like any others.
    judged
}

/// The figures in words, and whether they may be as they are.
async fn measure(
    arguments: &Arguments,
    machine: &mut Machine,
) -> anyhow::Result<(String, anyhow::Result<()>)> {
    match arguments.what {
        What::Soak => soak::run(arguments.minutes.get()).await,
        What::Overload => {
            let overload = overload::measure(machine).await?;
            machine.look_for_others().await?;
            Ok((write_up::overload(machine, &overload), overload.judge()))
        }
        What::Generator => {
            let generator = generator::measure(machine).await?;
            machine.look_for_others().await?;
            Ok((write_up::generator(machine, &generator), generator.judge()))
        }
        What::Models => {
            let face = face::measure().await?;
            machine.look_for_others().await?;
            let models = models::measure(machine).await?;
            let judged = models::require_no_failure(&models);
            Ok((write_up::models(machine, &face, &models), judged))
        }
        What::Switching => {
            let rig = Rig::start().await?;
            let switching = switching::measure(&rig, machine).await?;
            let serving = serving::measure(&rig, machine).await?;
            machine.look_for_others().await?;
            let figures = write_up::switching(machine, &switching, &serving);
            let judged = switching::require_no_failure_by_flag(&switching)
                .and_then(|()| serving.require_no_failure());
            Ok((figures, judged))
        }
    }
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
