//! One file a command.

mod alert_test;
#[cfg(all(test, debug_assertions))]
mod crash_safety;
mod deploy;
mod doctor;
mod down;
mod history;
mod recover;
mod report;
mod rollback;
mod status;
mod switch;
mod up;
mod validate;
mod watch;

use std::{fmt, io::Write as _, path::Path, process::ExitCode, time::Duration};

use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use crate::{
    adapters,
    cli::{self, Arguments, Command},
    color::Color,
    config::{self, SettingsError},
    event::{Event, Reporter},
    exit_code,
    journal::{Journal, JournalError},
    ports::{Target, World},
    report::{JsonLines, Terminal},
};

/// What a command came to.
struct Done {
    code: u8,
    /// For people, on standard output.
    text: String,
    /// For programs: an object, the last line of `--json`.
    object: Value,
}

impl Done {
    /// It did what it was asked.
    fn fine(text: impl Into<String>) -> Self {
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

    /// Tells programs more than the text.
    fn telling(mut self, object: Value) -> Self {
        self.object = object;
        self
    }
}

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
    let json = arguments.global.json;
    let (code, text, mut object) = match dispatch(arguments).await {
        Ok(Done { code, text, object }) => (code, text, object),
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

async fn dispatch(Arguments { global, command }: Arguments) -> anyhow::Result<Done> {
    // These need no settings.
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
        lock(&settings.state, &words, PATIENCE_WITH_THE_WATCH, reporter).await
    };
    let world = || adapters::connect(settings);
    match &command {
        Command::Deploy {
            version,
            active_down,
            dry_run: true,
            ..
        } => deploy::plan(settings, version.clone(), *active_down, &world()?).await,
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
                &world()?,
                reporter,
            )
            .await
        }
        Command::Recover { .. } => {
            recover::run(settings, &lock().await?, &world()?, reporter).await
        }
        Command::Up => {
            let _lock = lock().await?;
            up::run(settings, &world()?, reporter).await
        }
        Command::Rollback => {
            let journal = lock().await;
            let journal = journal.map_err(|error| rollback::way_out(settings, error))?;
            rollback::run(settings, &journal, &world()?, reporter).await
        }
        Command::Switch { color } => switch::run(*color, &lock().await?, &world()?, reporter).await,
        Command::Status { watch: false } => status::run(settings, &world()?).await,
        Command::Status { watch: true } => status::keep_showing(settings, global.json).await,
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
                &world()?,
                reporter,
            )
            .await
        }
        Command::Report { id, open } => report::run(settings, id.as_deref(), *open).await,
        Command::Doctor => doctor::run(settings, &world()?).await,
        Command::Watch => watch::run(settings, &world()?, reporter).await,
        Command::AlertTest => alert_test::run(settings).await,
        Command::Down => {
            let _lock = lock().await?;
            down::run(&world()?).await
        }
        Command::Completions { .. } | Command::Man { .. } => unreachable!("done above"),
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<Done> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut cli::command(), "deployer", &mut script);
    Ok(Done::fine(String::from_utf8(script)?))
}

fn manual(directory: &Path) -> anyhow::Result<Done> {
    clap_mangen::generate_to(cli::command(), directory).map_err(|error| {
        Ended::usage(format!(
            "cannot write manual pages to {}: {error}",
            directory.display()
        ))
    })?;
    let directory = directory.display();
    Ok(Done::fine(format!("the manual pages are in {directory}")))
}

/// Resolves at Ctrl-C or SIGTERM, or when the terminal goes away.
async fn told_to_stop() {
    tokio::select! {
        () = received(SignalKind::interrupt()) => (),
        () = received(SignalKind::terminate()) => (),
        () = received(SignalKind::hangup()) => (),
    }
}

/// Resolves when the signal comes; never where it cannot be listened for, or where whoever started this
/// program said to ignore it, as nohup does.
async fn received(kind: SignalKind) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if heeds(&status, kind.as_raw_value())
        && let Ok(mut signals) = signal(kind)
    {
        signals.recv().await;
        return;
    }
    std::future::pending::<()>().await;
}

/// Whether a process with this status (`proc_pid_status(5)`) does not ignore a signal.
fn heeds(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0) & (1 << (signal - 1)) == 0
}

/// `deployer watch` is done with what it holds the lock for, as a rule, well within this.
const PATIENCE_WITH_THE_WATCH: Duration = Duration::from_mins(1);

/// Takes the lock for a command. Nobody started `deployer watch` for the standby that it starts just now,
/// or for the color that it stops: whoever comes in between waits a while, and is not turned away.
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
            }) if holder.is_watch() && Instant::now() < deadline => holder,
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

/// Stops copying clients' requests to the idle color. A command that holds the lock calls this first: no
/// other deployer uses copies then, so a killed deployer left them on.
fn stop_leftover_copies(world: &World, reporter: &dyn Reporter) {
    if let Err(error) = world.router.set_shadow(false) {
        reporter.report(&Event::Note {
            text: error.to_string(),
        });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::All;

    const LONG: Duration = Duration::from_mins(10);

    #[tokio::test]
    async fn a_command_waits_for_the_watch_until_it_lets_go_or_patience_is_at_an_end() {
        let state = tempfile::tempdir().unwrap();
        let nobody = All(Vec::new());
        let held = Journal::lock(state.path(), "watch").unwrap();
        let error = lock(state.path(), "deploy v2", Duration::ZERO, &nobody)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("`watch` by"), "{error}");
        assert!(error.contains("starting or stopping a color"), "{error}");
        let (locked, ()) = tokio::join!(lock(state.path(), "deploy v2", LONG, &nobody), async {
            drop(held);
        });
        locked.unwrap();
    }

    #[tokio::test]
    async fn a_command_does_not_wait_for_another_one() {
        let state = tempfile::tempdir().unwrap();
        let _held = Journal::lock(state.path(), "deploy v1").unwrap();
        let error = lock(state.path(), "deploy v2", LONG, &All(Vec::new()))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("; try again when it is done"), "{error}");
    }

    #[test]
    fn a_signal_that_is_ignored_from_the_start_is_not_heeded() {
        let status = "Name:\tdeployer\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004000\n";
        let hangup = SignalKind::hangup().as_raw_value();
        let terminate = SignalKind::terminate().as_raw_value();
        assert!(!heeds(status, hangup));
        assert!(heeds(status, terminate));
        assert!(heeds("", hangup));
    }
}
