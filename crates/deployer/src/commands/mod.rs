//! One file a command.

mod deploy;
mod down;
mod report;
mod rollback;
mod status;
mod switch;
mod up;
mod validate;

use std::{fmt, io::Write as _, process::ExitCode};

use crate::{
    cli::{Arguments, Command},
    color::Color,
    config::{self, SettingsError},
    event::{Event, Reporter},
    exit_code,
    journal::{Journal, JournalError},
    phase::Phase,
    ports::{Target, World},
    report::Terminal,
};

/// A command that ended without doing what it was asked, and is not a bug.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Ended {
    code: u8,
    message: String,
}

impl Ended {
    fn with(code: u8, message: impl fmt::Display) -> anyhow::Error {
        let message = message.to_string();
        Self { code, message }.into()
    }

    fn usage(message: impl fmt::Display) -> anyhow::Error {
        Self::with(exit_code::USAGE, message)
    }

    fn refused(message: impl fmt::Display) -> anyhow::Error {
        Self::with(exit_code::REFUSED, message)
    }

    fn halted(message: impl fmt::Display) -> anyhow::Error {
        let message = format!("{message}; `deployer status` shows where traffic goes");
        Self::with(exit_code::HALTED, message)
    }
}

/// Runs one command; what it has to say stands on stderr, its result on stdout.
pub async fn run(arguments: Arguments) -> ExitCode {
    match dispatch(arguments).await {
        Ok(code) => code.into(),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "deployer: {error}");
            code_of(&error).into()
        }
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(ended) = error.downcast_ref::<Ended>() {
        return ended.code;
    }
    match error.downcast_ref::<JournalError>() {
        Some(JournalError::Busy { .. }) => exit_code::BUSY,
        Some(JournalError::Storage { .. } | JournalError::Damaged { .. }) => exit_code::USAGE,
        None if error.is::<SettingsError>() => exit_code::USAGE,
        None => exit_code::UNEXPECTED,
    }
}

async fn dispatch(Arguments { global, command }: Arguments) -> anyhow::Result<u8> {
    let mut settings = config::load(global.config.as_deref(), &global.settings)?;
    global.apply(&mut settings);
    if let Command::Deploy { overrides, .. } = &command {
        overrides.apply(&mut settings);
    }
    config::check(&settings)?;
    let reporter = Terminal::new();
    let lock = || Journal::lock(&settings.state, &command.words());
    match &command {
        Command::Deploy { version, .. } => {
            deploy::run(&settings, version.clone(), &lock()?, &reporter).await
        }
        Command::Up => {
            let _lock = lock()?;
            up::run(&settings, &reporter).await
        }
        Command::Rollback => {
            let journal = lock().map_err(|error| rollback::way_out(&settings, error))?;
            rollback::run(&settings, &journal, &reporter).await
        }
        Command::Switch { color } => switch::run(&settings, *color, &lock()?, &reporter).await,
        Command::Status { json } => status::run(&settings, *json).await,
        Command::Validate {
            version,
            only,
            json,
        } => {
            let _lock = lock()?;
            validate::run(&settings, version.clone(), only, *json, &reporter).await
        }
        Command::Report { id, open, json } => {
            report::run(&settings, id.as_deref(), *open, *json).await
        }
        Command::Down => {
            let _lock = lock()?;
            down::run(&settings).await
        }
    }
}

/// Moves traffic because a person said so, and takes note of what that means for the deployment.
async fn move_by_hand(
    world: &World,
    journal: &Journal,
    reporter: &dyn Reporter,
    to: Color,
) -> anyhow::Result<()> {
    let from = world.router.point_at(to).await.map_err(Ended::halted)?;
    reporter.report(&Event::Moved { from, to });
    // Traffic has moved: a journal that cannot take note of it is worth a line, not a failure.
    if let Err(error) = take_note(journal, to) {
        reporter.report(&Event::Note {
            text: error.to_string(),
        });
    }
    Ok(())
}

fn take_note(journal: &Journal, to: Color) -> Result<(), JournalError> {
    let Some(entry) = journal.last()? else {
        return Ok(());
    };
    let phase = match (entry.phase, to == entry.plan.idle) {
        (phase, true) if !phase.is_end() => Phase::Promoted,
        (Phase::Switched | Phase::Promoted, false) => Phase::RolledBack,
        (phase, false) if !phase.is_end() => Phase::Refused,
        _ => return Ok(()),
    };
    journal.reached(&entry.plan, phase, Some("by hand"))
}

/// Prints a command's result.
fn print(result: &str) {
    // A reader that has gone away is not our error.
    let _ = writeln!(std::io::stdout(), "{result}");
}

/// Who answers at `color`, in words.
async fn who(world: &World, color: Color) -> Result<String, String> {
    match world.probe.health(Target::Server(color)).await {
        Ok(health) => Ok(health
            .model_version
            .unwrap_or_else(|| "a release that does not tell its version".to_owned())),
        Err(error) => Err(error.to_string()),
    }
}
