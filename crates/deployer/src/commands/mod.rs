//! The commands, one file each.

mod abort;
mod alert_test;
mod approve;
#[cfg(all(test, debug_assertions))]
mod crash_safety;
mod decision;
mod deploy;
mod doctor;
mod down;
mod dry_run;
mod history;
mod lock;
mod monitor;
mod output;
mod page_key;
mod page_link;
mod promote;
mod recover;
mod reject;
mod remove_router;
mod report;
mod rollback;
mod routers;
mod status;
mod steps;
mod stop;
mod switch;
mod up;
mod validate;

use std::{io::Write as _, path::Path, process::ExitCode, time::Duration};

use serde_json::json;

use crate::{
    adapters::{
        self,
        notify::{Notifier, Questions},
        traces::Traces,
    },
    cli::{self, Arguments, Command},
    commands::{
        deploy::ToDeploy,
        lock::lock,
        output::{CommandError, CommandOutput, print},
        steps::{end_leftovers, until_stopped},
    },
    config::{self, Settings, SettingsError},
    deployment::{scope::Scope, windows},
    event::{Event, Reporter},
    exit_code,
    monitor::page::address,
    ports::{JournalError, Ports},
    report::{JsonLines, Reporters, Terminal, warn},
};

/// How long an ended command waits for the receivers of notifications.
const MAX_WAIT_FOR_RECEIVERS: Duration = Duration::from_secs(3);

/// Runs one command. Progress goes to stderr, the result to stdout.
pub async fn run(arguments: Arguments) -> ExitCode {
    let json = arguments.global.json;
    let mut notifier = None;
    let (code, text, mut object) = match dispatch(arguments, &mut notifier).await {
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
    // Last, because a receiver may answer late.
    if let Some(notifier) = notifier
        && let Err(error) = notifier.send_within(MAX_WAIT_FOR_RECEIVERS).await
    {
        warn(&error.to_string());
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

/// Runs a command. Leaves the notifier if the command may have queued the end of a deployment, also if it failed.
async fn dispatch(
    Arguments { global, command }: Arguments,
    notifier: &mut Option<Notifier>,
) -> anyhow::Result<CommandOutput> {
    // These commands need no settings.
    match &command {
        Command::Completions { shell } => return completions(*shell),
        Command::Man { directory } => return manual(directory),
        Command::Agent(_) | Command::Store(_) | Command::AgentFence(_) | Command::AgentNginx(_) => {
            return routers::run(&command).await;
        }
        _ => {}
    }
    let mut settings = config::load(global.config.as_deref(), &global.settings)?;
    global.apply(&mut settings);
    if let Command::Deploy { overrides, .. } | Command::Recover { overrides } = &command {
        overrides.apply(&mut settings);
    }
    if let Command::Deploy { reason, .. } = &command {
        settings.windows.overridden.clone_from(reason);
    }
    config::check(&settings)?;
    let ports = &adapters::connect(&settings)?;
    let (terminal, lines) = (Terminal::new(), JsonLines);
    let output: &dyn Reporter = if global.json { &lines } else { &terminal };
    let may_end = command.may_end_deployment();
    *notifier = may_end.then(|| Notifier::new(&settings));
    let notifier = notifier.as_ref();
    // A killed deployer did not announce its ends.
    announce_ends(notifier, ports).await;
    let page = address::of(&settings);
    let questions = notifier.map(|notifier| Questions::new(notifier, page));
    let traces = if may_end {
        Traces::connect(&settings).unwrap_or_else(|error| {
            let text = format!("the deployment is not traced: {error}");
            output.report(&Event::Note { text });
            None
        })
    } else {
        None
    };
    let mut reporters = vec![output];
    reporters.extend(questions.iter().map(|questions| questions as &dyn Reporter));
    let spans = traces.as_ref().map(Traces::reporter);
    reporters.extend(spans.map(|spans| spans as &dyn Reporter));
    let reporters = Reporters(reporters);
    // Boxed: the future holds the futures of all commands, and is large.
    let work = Box::pin(perform(&command, &settings, ports, &reporters, global.json));
    let done = match notifier {
        // A question must reach its receivers while the deployment waits.
        Some(notifier) if !settings.approval.before.is_empty() => notifier.send_during(work).await,
        _ => work.await,
    };
    // A command that no longer waits for the fleet must not leave a process behind.
    ports.fleet.await_abandoned().await;
    announce_ends(notifier, ports).await;
    if let Some(traces) = traces
        && let Some(text) = traces.stop().await
    {
        output.report(&Event::Note { text });
    }
    done
}

/// Runs a command with its settings, with the lock if it needs that.
async fn perform(
    command: &Command,
    settings: &Settings,
    ports: &Ports,
    reporter: &dyn Reporter,
    json: bool,
) -> anyhow::Result<CommandOutput> {
    let lock = async || lock(ports, &command.to_string(), reporter).await;
    match command {
        Command::Deploy {
            version,
            active_down,
            dry_run,
            ..
        } => {
            let (version, scope) = (version.clone(), Scope::of_flag(*active_down));
            if *dry_run {
                return dry_run::run(settings, version, *active_down, ports).await;
            }
            // First, so that nothing is changed.
            windows::check(&settings.windows, ports.clock.now()).map_err(CommandError::refused)?;
            let release = ToDeploy {
                version,
                scope,
                reason: None,
            };
            deploy::run(settings, release, &lock().await?, ports, reporter).await
        }
        Command::Recover { .. } => recover::run(settings, &lock().await?, ports, reporter).await,
        Command::Up => {
            let _lock = lock().await?;
            until_stopped(ports, reporter, up::run(settings, ports, reporter)).await
        }
        Command::Down => {
            let _lock = lock().await?;
            until_stopped(ports, reporter, down::run(settings, ports)).await
        }
        Command::Rollback {
            version: None,
            reason,
        } => rollback::run(settings, reason.clone(), ports, reporter).await,
        Command::Rollback {
            version: Some(version),
            reason,
        } => {
            let reason = reason.as_deref();
            rollback::run_to_version(settings, version, reason, lock().await, ports, reporter).await
        }
        Command::RemoveRouter { name } => remove_router::run(ports, name).await,
        Command::Abort { id, reason } => {
            let (id, reason) = (id.clone(), reason.clone());
            abort::run(settings, id, reason, ports, reporter).await
        }
        Command::Approve { decision, evidence } => {
            approve::run(settings, decision, evidence.as_deref(), ports, reporter).await
        }
        Command::Reject { decision } => reject::run(settings, decision, ports, reporter).await,
        Command::Promote { decision } => promote::run(settings, decision, ports, reporter).await,
        Command::Switch { color } => {
            switch::run(settings, *color, &lock().await?, ports, reporter).await
        }
        Command::Status { watch: false } => status::run(settings, ports).await,
        Command::Status { watch: true } => status::watch(settings, ports, json).await,
        Command::History { verify: None } => history::run(ports).await,
        Command::History {
            verify: Some(wanted),
        } => history::verify(settings, wanted),
        Command::Validate {
            version,
            only,
            keep_going,
        } => {
            let _lock = lock().await?;
            let version = version.clone();
            validate::run(settings, version, only, *keep_going, ports, reporter).await
        }
        Command::Report { id } => report::run(settings, id.as_deref()),
        Command::Doctor { offline } => doctor::run(settings, *offline, ports).await,
        Command::Monitor => monitor::run(settings, ports, reporter).await,
        Command::AlertTest => alert_test::run(settings).await,
        Command::PageKey { name, role } => page_key::run(settings, name, *role),
        Command::PageLink => page_link::run(settings),
        Command::Completions { .. }
        | Command::Man { .. }
        | Command::Agent(_)
        | Command::Store(_)
        | Command::AgentFence(_)
        | Command::AgentNginx(_) => unreachable!("they need no settings"),
    }
}

/// Queues the ends of deployments that the history has and that were not announced yet.
async fn announce_ends(notifier: Option<&Notifier>, ports: &Ports) {
    // The command itself reports an unreadable history.
    if let Some(notifier) = notifier
        && let Ok(history) = ports.journal.read_history().await
    {
        notifier.announce(&history.entries);
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
