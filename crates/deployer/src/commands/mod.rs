//! The commands, one file each.

mod alert_test;
#[cfg(all(test, debug_assertions))]
mod crash_safety;
mod deploy;
mod doctor;
mod down;
mod dry_run;
mod history;
mod lock;
mod monitor;
mod output;
mod recover;
mod report;
mod rollback;
mod status;
mod steps;
mod switch;
mod up;
mod validate;

use std::{io::Write as _, path::Path, process::ExitCode};

use serde_json::json;

use crate::{
    adapters,
    cli::{self, Arguments, Command},
    commands::{
        lock::{MAX_WAIT_FOR_MONITOR, lock},
        output::{CommandError, CommandOutput, print},
        steps::stop_leftover_shadow,
    },
    config::{self, SettingsError},
    event::Reporter,
    exit_code,
    ports::JournalError,
    report::{JsonLines, Terminal},
};

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

// Longer than 60 lines: one arm for each command.
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
    let ports = &adapters::connect(settings)?;
    let (terminal, lines) = (Terminal::new(), JsonLines);
    let reporter: &dyn Reporter = if global.json { &lines } else { &terminal };
    let lock = async || lock(ports, &command.to_string(), MAX_WAIT_FOR_MONITOR, reporter).await;
    match &command {
        Command::Deploy {
            version,
            active_down,
            dry_run: true,
            ..
        } => dry_run::run(settings, version.clone(), *active_down, ports).await,
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
                ports,
                reporter,
            )
            .await
        }
        Command::Recover { .. } => recover::run(settings, &lock().await?, ports, reporter).await,
        Command::Up => {
            let _lock = lock().await?;
            up::run(settings, ports, reporter).await
        }
        Command::Rollback => {
            let journal = lock().await;
            let journal = journal.map_err(|error| rollback::explain_failure(settings, error))?;
            rollback::run(settings, &journal, ports, reporter).await
        }
        Command::Switch { color } => {
            switch::run(settings, *color, &lock().await?, ports, reporter).await
        }
        Command::Status { watch: false } => status::run(settings, ports).await,
        Command::Status { watch: true } => status::watch(settings, ports, global.json).await,
        Command::History => history::run(ports).await,
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
                ports,
                reporter,
            )
            .await
        }
        Command::Report { id } => report::run(settings, id.as_deref()),
        Command::Doctor => doctor::run(settings, ports).await,
        Command::Monitor => monitor::run(settings, ports, reporter).await,
        Command::AlertTest => alert_test::run(settings, ports).await,
        Command::Down => {
            let _lock = lock().await?;
            down::run(settings, ports).await
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
