//! One file a command.

mod deploy;
mod down;
mod rollback;
mod status;
mod switch;
mod up;

use std::{fmt, io::Write as _, process::ExitCode};

use crate::{
    cli::{Arguments, Command},
    color::Color,
    config::{self, Settings, SettingsError},
    exit_code,
    journal::{Journal, JournalError},
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
    fn usage(message: impl fmt::Display) -> anyhow::Error {
        Self {
            code: exit_code::USAGE,
            message: message.to_string(),
        }
        .into()
    }

    fn refused(message: impl fmt::Display) -> anyhow::Error {
        Self {
            code: exit_code::REFUSED,
            message: message.to_string(),
        }
        .into()
    }
}

/// Runs one command; what it has to say stands on stderr, its result on stdout.
pub async fn run(arguments: Arguments) -> ExitCode {
    match dispatch(arguments).await {
        Ok(code) => code.into(),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "deployer: {error:#}");
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
    let mut settings = config::load(global.config.as_deref())?;
    global.apply(&mut settings);
    if let Command::Deploy { overrides, .. } = &command {
        overrides.apply(&mut settings)?;
    }
    if let Command::Status { json } = command {
        return status::run(&settings, json).await;
    }
    let reporter = Terminal::new();
    let journal = Journal::lock(&settings.state, &command.words())?;
    match command {
        Command::Deploy { version, .. } => {
            deploy::run(&settings, version, &journal, &reporter).await
        }
        Command::Up => up::run(&settings, &reporter).await,
        Command::Rollback => rollback::run(&settings, &journal, &reporter).await,
        Command::Switch { color } => switch::run(&settings, color, &reporter).await,
        Command::Status { json } => status::run(&settings, json).await,
        Command::Down => down::run(&settings).await,
    }
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

/// The version to assume for `color` when nobody says otherwise.
async fn held_version(world: &World, settings: &Settings, color: Color) -> String {
    let recorded = world
        .fleet
        .inspect(crate::ports::Service::Server(color))
        .await
        .ok()
        .and_then(|(_, version)| version);
    recorded.unwrap_or_else(|| settings.color(color).version.clone())
}
