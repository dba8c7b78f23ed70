//! Gives the idle color back the release that it held before a deployment whose candidate was refused or rolled back.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::{
    color::Color,
    config::HealthSettings,
    deployment::{phase::Phase, plan::Plan},
    event::{Event, Reporter},
    ports::{JournalStore, Ports, Service, ServiceState, Target},
    state::{
        action::Action,
        history::HistoryEntry,
        journal::Journal,
        journal_entries::{DeploymentEntry, JournalEntries},
    },
};

/// The longest start of a release, without the time until it is healthy.
const MAX_START: Duration = Duration::from_mins(5);

/// The last deployment, if its candidate must not stay on the idle color.
fn failed_deployment(entries: &JournalEntries) -> Option<&DeploymentEntry> {
    let last = entries.deployment.as_ref()?;
    matches!(last.phase, Phase::Refused | Phase::RolledBack).then_some(last)
}

/// The version that `color` should hold. `recorded` is the version that was last started there: the release that the last
/// deployment refused or rolled back, if its deployer was killed before it gave the color back.
///
/// `None` if that release must not start, and no earlier one is known. A release that was promoted stays, also if a failover
/// moved the traffic away from it.
pub async fn version_to_hold(
    journal: &dyn JournalStore,
    color: Color,
    recorded: Option<String>,
) -> Option<String> {
    let entries = journal.read().await.unwrap_or_default();
    let Some(DeploymentEntry { plan, .. }) = failed_deployment(&entries) else {
        return recorded;
    };
    if plan.idle != color || recorded.as_ref() != Some(&plan.release.version) {
        return recorded;
    }
    let history = journal.read_history().await.unwrap_or_default().entries;
    let was_promoted = history
        .iter()
        .any(|entry| entry.action == Action::Promoted && entry.id.as_ref() == Some(&plan.id));
    if was_promoted {
        return recorded;
    }
    let earlier = plan.idle_version.clone();
    earlier.filter(|version| *version != plan.release.version)
}

/// Starts the release again that the idle color held before the last deployment, if that was refused or rolled back. It
/// can stand in again if it could before. A color that did not run before stays stopped. With `id`, nothing happens unless the
/// last deployment is that one.
///
/// Traffic and the end of the deployment do not depend on it: a failure is reported, and the history has it. Returns whether
/// the idle color holds what it should.
pub async fn restore_release(
    settings: &HealthSettings,
    ports: &Ports,
    journal: &Journal<'_>,
    id: Option<&str>,
    reporter: &dyn Reporter,
) -> bool {
    let entries = journal.read().await.unwrap_or_default();
    let Some(DeploymentEntry { plan, .. }) = failed_deployment(&entries) else {
        return true;
    };
    if id.is_some_and(|id| id != plan.id) {
        return true;
    }
    let Some(version) = lost_version(ports, plan).await else {
        return true;
    };
    let idle = plan.idle;
    reporter.report(&Event::Note {
        text: format!("{idle} gets back {version}, which it held before"),
    });
    let restored = restore(settings, ports, plan, &version).await;
    let (action, text) = match &restored {
        Ok(()) => (Action::Restored, format!("{idle} holds {version} again")),
        Err(error) => (
            Action::NotRestored,
            format!("{idle} does not hold {version} again, and cannot stand in: {error}"),
        ),
    };
    reporter.report(&Event::StandbyRestored {
        color: idle,
        version: &version,
        result: restored.as_ref().copied().map_err(String::as_str),
    });
    let entry = HistoryEntry::of_standby(action, idle, version, ports.clock.now(), text);
    if let Err(error) = journal.append_history(&entry).await {
        reporter.report(&Event::Note {
            text: error.to_string(),
        });
    }
    restored.is_ok()
}

/// The version that the idle color held before `plan` and no longer holds; `None` if there is nothing to give back.
async fn lost_version(ports: &Ports, plan: &Plan) -> Option<String> {
    let before = plan.idle_version.clone();
    // Of two releases with one version, the fleet cannot tell which one it starts.
    let before = before.filter(|version| *version != plan.release.version)?;
    let (state, held) = ports.fleet.inspect(Service::Server(plan.idle)).await.ok()?;
    // A deployment that was stopped early has stopped the release and recorded no other one.
    let lost = held.as_ref() == Some(&plan.release.version)
        || matches!(state, ServiceState::Stopped(_))
        || plan.idle_was_fit && ports.flags.is_fit(plan.idle).await == Ok(false);
    // A person may have moved traffic to the candidate.
    let has_no_traffic = ports.router.active().await == Ok(plan.active);
    (plan.idle_ran && lost && has_no_traffic).then_some(before)
}

async fn restore(
    settings: &HealthSettings,
    ports: &Ports,
    plan: &Plan,
    version: &str,
) -> Result<(), String> {
    let idle = plan.idle;
    let started = timeout(MAX_START, ports.fleet.start(idle, version)).await;
    started
        .map_err(|_| {
            let bound = humantime::format_duration(MAX_START);
            format!("it did not start within {bound}")
        })?
        .map_err(|error| error.to_string())?;
    await_version(settings, ports, idle, version).await?;
    if plan.idle_was_fit {
        let fit = ports.flags.set_fit(idle, true).await;
        fit.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Waits until the color is healthy with this version. The error says why it is not.
async fn await_version(
    settings: &HealthSettings,
    ports: &Ports,
    color: Color,
    version: &str,
) -> Result<(), String> {
    let mut problem = String::new();
    for tried in 1..=settings.tries {
        match ports.probe.health(Target::Server(color)).await {
            Ok(health) => match health.model_version {
                Some(served) if served != version => {
                    problem = format!("it serves {served}");
                }
                _ => return Ok(()),
            },
            Err(error) => problem = error.to_string(),
        }
        if tried < settings.tries {
            sleep(settings.interval).await;
        }
    }
    Err(problem)
}
