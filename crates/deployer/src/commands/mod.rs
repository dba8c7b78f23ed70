//! The commands, one file each.

mod alert_test;
#[cfg(all(test, debug_assertions))]
mod crash_safety;
mod deploy;
mod doctor;
mod down;
mod history;
mod monitor;
mod recover;
mod report;
mod rollback;
mod status;
mod switch;
mod up;
mod validate;

use std::{fmt, io::Write as _, path::Path, process::ExitCode, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    adapters,
    cli::{self, Arguments, Command},
    color::Color,
    config::{self, SettingsError},
    event::{Event, Reporter},
    exit_code,
    ports::{Ports, Target},
    report::{JsonLines, Terminal},
    state::journal::{Journal, JournalError},
};

/// The result of a command.
struct CommandOutput {
    code: u8,
    /// For people, on standard output.
    text: String,
    /// For programs: the last line of `--json`.
    object: Value,
}

impl CommandOutput {
    /// The command succeeded.
    fn success(text: impl Into<String>) -> Self {
        Self::with(exit_code::FINE, text)
    }

    fn with(code: u8, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            code,
            object: json!({"event": "ended", "text": text}),
            text,
        }
    }

    /// Replaces the object for programs.
    fn with_object(mut self, object: Value) -> Self {
        self.object = object;
        self
    }
}

/// A command that failed for a known reason.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct CommandError {
    code: u8,
    message: String,
}

impl CommandError {
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

/// Runs one command. Progress goes to stderr, the result to stdout.
pub async fn run(arguments: Arguments) -> ExitCode {
    let json = arguments.global.json;
    let (code, text, mut object) = match dispatch(arguments).await {
        Ok(CommandOutput { code, text, object }) => (code, text, object),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "deployer: {error}");
            let object = json!({"event": "ended", "error": error.to_string()});
            (code_of(&error), String::new(), object)
        }
    };
    if json {
        object["exit_code"] = json!(code);
        print(&object.to_string());
    } else if !text.is_empty() {
        print(&text);
    }
    code.into()
}

fn code_of(error: &anyhow::Error) -> u8 {
    if let Some(ended) = error.downcast_ref::<CommandError>() {
        return ended.code;
    }
    match error.downcast_ref::<JournalError>() {
        Some(JournalError::Busy { .. }) => exit_code::BUSY,
        Some(JournalError::Storage { .. } | JournalError::Damaged { .. }) => exit_code::USAGE,
        None if error.is::<SettingsError>() => exit_code::USAGE,
        None => exit_code::UNEXPECTED,
    }
}

async fn dispatch(Arguments { global, command }: Arguments) -> anyhow::Result<CommandOutput> {
    // These commands need no settings.
    match &command {
        Command::Completions { shell } => return completions(*shell),
        Command::Man { directory } => return manual(directory),
        _ => {}
    }
    let mut settings = config::load(global.config.as_deref(), &global.settings)?;
    global.apply(&mut settings);
    if let Command::Deploy { overrides, .. } | Command::Recover { overrides } = &command {
        overrides.apply(&mut settings);
    }
    config::check(&settings)?;
    let settings = &settings;
    let (terminal, lines) = (Terminal::new(), JsonLines);
    let reporter: &dyn Reporter = if global.json { &lines } else { &terminal };
    let lock = async || {
        let words = command.words();
        lock(&settings.state, &words, MAX_WAIT_FOR_MONITOR, reporter).await
    };
    let ports = || adapters::connect(settings);
    match &command {
        Command::Deploy {
            version,
            active_down,
            dry_run: true,
            ..
        } => deploy::plan(settings, version.clone(), *active_down, &ports()?).await,
        Command::Deploy {
            version,
            active_down,
            ..
        } => {
            deploy::run(
                settings,
                version.clone(),
                *active_down,
                &lock().await?,
                &ports()?,
                reporter,
            )
            .await
        }
        Command::Recover { .. } => {
            recover::run(settings, &lock().await?, &ports()?, reporter).await
        }
        Command::Up => {
            let _lock = lock().await?;
            up::run(settings, &ports()?, reporter).await
        }
        Command::Rollback => {
            let journal = lock().await;
            let journal = journal.map_err(|error| rollback::explain_failure(settings, error))?;
            rollback::run(settings, &journal, &ports()?, reporter).await
        }
        Command::Switch { color } => switch::run(*color, &lock().await?, &ports()?, reporter).await,
        Command::Status { watch: false } => status::run(settings, &ports()?).await,
        Command::Status { watch: true } => status::watch(settings, global.json).await,
        Command::History => history::run(settings),
        Command::Validate {
            version,
            only,
            keep_going,
        } => {
            let _lock = lock().await?;
            validate::run(
                settings,
                version.clone(),
                only,
                *keep_going,
                &ports()?,
                reporter,
            )
            .await
        }
        Command::Report { id, open } => report::run(settings, id.as_deref(), *open).await,
        Command::Doctor => doctor::run(settings, &ports()?).await,
        Command::Monitor => monitor::run(settings, &ports()?, reporter).await,
        Command::AlertTest => alert_test::run(settings).await,
        Command::Down => {
            let _lock = lock().await?;
            down::run(&ports()?).await
        }
        Command::Completions { .. } | Command::Man { .. } => unreachable!("done above"),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<CommandOutput> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "deployer", &mut script);
    Ok(CommandOutput::success(String::from_utf8(script)?))
}

fn manual(directory: &Path) -> anyhow::Result<CommandOutput> {
    clap_mangen::generate_to(cli::command(), directory).map_err(|error| {
        CommandError::usage(format!(
            "cannot write manual pages to {}: {error}",
            directory.display()
        ))
    })?;
    let directory = directory.display();
    Ok(CommandOutput::success(format!(
        "the manual pages are in {directory}"
    )))
}

/// The monitor usually releases the lock well within this time.
const MAX_WAIT_FOR_MONITOR: Duration = Duration::from_mins(1);

/// Takes the lock for a command. Waits for a monitor that starts or stops a color, because no person started
/// that.
async fn lock(
    state: &Path,
    command: &str,
    patience: Duration,
    reporter: &dyn Reporter,
) -> Result<Journal, JournalError> {
    const PAUSE: Duration = Duration::from_millis(100);

    let deadline = Instant::now() + patience;
    let mut told = false;
    loop {
        let watch = match Journal::lock(state, command) {
            Err(JournalError::Busy {
                holder: Some(holder),
            }) if holder.is_monitor() && Instant::now() < deadline => holder,
            locked => return locked,
        };
        if !std::mem::replace(&mut told, true) {
            reporter.report(&Event::Note {
                text: format!("waiting for {watch}, which is starting or stopping a color"),
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends the copies of client requests to the idle color. Called first by a command that holds the lock: only a
/// killed deployer can have left them on.
fn stop_leftover_shadow(ports: &Ports, reporter: &dyn Reporter) {
    if let Err(error) = ports.router.set_shadow(false) {
        reporter.report(&Event::Note {
            text: error.to_string(),
        });
    }
}

/// Prints the result of a command.
fn print(result: &str) {
    // A closed pipe is not an error of the deployer.
    let _ = writeln!(std::io::stdout(), "{result}");
}

/// The version that `color` serves, or why it is not healthy.
async fn who(ports: &Ports, color: Color) -> Result<String, String> {
    match ports.probe.health(Target::Server(color)).await {
        Ok(health) => Ok(health
            .model_version
            .unwrap_or_else(|| "a release that reports no version".to_owned())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Reporters;

    const LONG: Duration = Duration::from_mins(10);

    #[tokio::test]
    async fn command_waits_for_the_monitor_until_timeout() {
        let state = tempfile::tempdir().unwrap();
        let nobody = Reporters(Vec::new());
        let held = Journal::lock(state.path(), "monitor").unwrap();
        let error = lock(state.path(), "deploy v2", Duration::ZERO, &nobody)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("`monitor` by"), "{error}");
        assert!(error.contains("starting or stopping a color"), "{error}");
        let (locked, ()) = tokio::join!(lock(state.path(), "deploy v2", LONG, &nobody), async {
            drop(held);
        });
        locked.unwrap();
    }

    #[tokio::test]
    async fn command_does_not_wait_for_another_command() {
        let state = tempfile::tempdir().unwrap();
        let _held = Journal::lock(state.path(), "deploy v1").unwrap();
        let error = lock(state.path(), "deploy v2", LONG, &Reporters(Vec::new()))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("; try again when it is done"), "{error}");
    }
}
