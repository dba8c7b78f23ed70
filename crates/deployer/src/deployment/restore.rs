//! Gives the idle color back the release that it held before a deployment whose candidate was refused or rolled back.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    color::Color,
    config::HealthSettings,
    deployment::{await_healthy::await_healthy, phase::Phase, plan::Plan},
    event::{Event, Reporter},
    gates,
    ports::{JournalStore, PortError, Ports, Service, ServiceState, Target},
    release::{HeldRelease, Release},
    state::{
        action::Action,
        history::{HistoryEntry, actions_since_end},
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

/// Whether the candidate stays, although its deployment was rolled back. It was promoted, and lost its traffic by a switch or
/// a failover. Neither of these judges the candidate.
fn keeps_candidate(history: &[HistoryEntry], plan: &Plan) -> bool {
    let is_promotion = |entry: &HistoryEntry| {
        entry.action == Action::Promoted && entry.id.as_ref() == Some(&plan.id)
    };
    history.iter().any(is_promotion)
        && actions_since_end(history, plan)
            .any(|action| matches!(action, Action::Switched | Action::FailedOver))
}

/// The release that a color should hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReleaseToHold {
    /// The one that was last started there.
    LastStarted,
    /// An earlier one: the last deployment failed, and did not give it back.
    Earlier {
        /// The release.
        release: HeldRelease,
        /// Whether it ran before that deployment.
        ran: bool,
    },
    /// The release that was last started there failed, and no earlier one is known.
    Unknown,
}

impl ReleaseToHold {
    /// The release that `color` should hold. `recorded` is the version that was last started there.
    pub async fn of(journal: &dyn JournalStore, color: Color, recorded: Option<&str>) -> Self {
        let entries = journal.read().await.unwrap_or_default();
        let Some(DeploymentEntry { plan, .. }) = failed_deployment(&entries) else {
            return Self::LastStarted;
        };
        if plan.idle != color || recorded != Some(&plan.release.version) {
            return Self::LastStarted;
        }
        let history = journal.read_history().await.unwrap_or_default().entries;
        // It was restored under the version of the release that failed.
        let is_restored =
            actions_since_end(&history, plan).any(|action| action == Action::Restored);
        if is_restored || keeps_candidate(&history, plan) {
            return Self::LastStarted;
        }
        let Some(release) = plan.idle_release.clone() else {
            return Self::Unknown;
        };
        Self::Earlier {
            release,
            ran: plan.idle_ran,
        }
    }

    /// The version to start; `None` if that would start the release that failed.
    #[must_use]
    pub fn version(&self, recorded: Option<String>) -> Option<String> {
        match self {
            Self::LastStarted => recorded,
            Self::Earlier { release, .. } => {
                let version = Some(release.version.clone());
                version.filter(|version| Some(version) != recorded.as_ref())
            }
            Self::Unknown => None,
        }
    }
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
    let Some(release) = lost_release(ports, journal, plan).await else {
        return true;
    };
    let (idle, version) = (plan.idle, &release.version);
    reporter.report(&Event::Note {
        text: format!("{idle} gets back {version}, which it held before"),
    });
    let restored = restore(settings, ports, plan, release, reporter).await;
    let (action, text) = match &restored {
        Ok(()) => (Action::Restored, format!("{idle} holds {version} again")),
        Err(error) => (
            Action::NotRestored,
            format!("{idle} does not hold {version} again, and cannot stand in: {error}"),
        ),
    };
    reporter.report(&Event::StandbyRestored {
        color: idle,
        version,
        result: restored.as_ref().copied().map_err(String::as_str),
    });
    let now = ports.clock.now();
    let entry = HistoryEntry {
        digest: release.digest.clone(),
        ..HistoryEntry::of_color(action, idle, Some(version.clone()), now, text)
    };
    if let Err(error) = journal.append_history(&entry).await {
        reporter.report(&Event::Note {
            text: error.to_string(),
        });
    }
    restored.is_ok()
}

/// The release that the idle color held before `plan` and no longer holds; `None` if there is nothing to give back. A
/// candidate that the color held already, and that never passed a deployment, has failed now and is not given back.
async fn lost_release<'a>(
    ports: &Ports,
    journal: &Journal<'_>,
    plan: &'a Plan,
) -> Option<&'a HeldRelease> {
    let before = plan.idle_release.as_ref()?;
    if !plan.idle_was_fit && is_candidate(before, plan) {
        return None;
    }
    let (state, held) = ports.fleet.inspect(Service::Server(plan.idle)).await.ok()?;
    let candidate = &plan.release.version;
    // A deployment that was stopped early has stopped the release and recorded no other one.
    let lost = held.as_ref() == Some(candidate) && before.version != *candidate
        || matches!(state, ServiceState::Stopped(_))
        || plan.idle_was_fit && ports.flags.is_fit(plan.idle).await == Ok(false);
    // A person may have moved traffic to the candidate.
    let has_no_traffic = ports.router.active().await == Ok(plan.active);
    let history = journal.history().await.unwrap_or_default();
    let lost = plan.idle_ran && lost && has_no_traffic && !keeps_candidate(&history, plan);
    lost.then_some(before)
}

/// Whether the idle color held the candidate itself already.
fn is_candidate(before: &HeldRelease, plan: &Plan) -> bool {
    let candidate = &plan.release;
    before.version == candidate.version
        && before.digest.is_some()
        && before.digest == candidate.digest
}

async fn restore(
    settings: &HealthSettings,
    ports: &Ports,
    plan: &Plan,
    before: &HeldRelease,
    reporter: &dyn Reporter,
) -> Result<(), String> {
    let message = |error: PortError| error.to_string();
    let idle = plan.idle;
    if before.version == plan.release.version && before.digest.is_none() {
        return Err(format!(
            "the release that failed has the same version, and {idle} reported no digest before, so they cannot be told apart"
        ));
    }
    // The candidate may have been proven, and fit.
    ports.flags.set_fit(idle, false).await.map_err(message)?;
    let started = timeout(MAX_START, ports.fleet.start_again(idle, before)).await;
    started
        .map_err(|_| {
            let bound = humantime::format_duration(MAX_START);
            format!("it did not start within {bound}")
        })?
        .map_err(message)?;
    let release = Release {
        version: before.version.clone(),
        digest: None,
        ..plan.release.clone()
    };
    let healthy = await_healthy(settings, ports, idle, &release, reporter).await;
    if !healthy.lets_through() {
        return Err(healthy.summary);
    }
    if let Err(difference) = compare(ports, plan, before, &release).await {
        // What the version names now may be the release that failed.
        let stopped = ports.fleet.stop(Service::Server(idle)).await;
        return Err(match stopped {
            Ok(()) => format!("{difference}; it is stopped"),
            Err(error) => format!("{difference}; it could not be stopped: {error}"),
        });
    }
    if plan.idle_was_fit {
        ports.flags.set_fit(idle, true).await.map_err(message)?;
    }
    Ok(())
}

/// Fails if the idle color serves something else than before the deployment.
async fn compare(
    ports: &Ports,
    plan: &Plan,
    before: &HeldRelease,
    release: &Release,
) -> Result<(), String> {
    let idle = plan.idle;
    let served = ports.probe.health(Target::Server(idle)).await;
    let served = served.map_err(|error| error.to_string())?;
    let identity = gates::compare(release, &served);
    if !identity.lets_through() {
        return Err(identity.summary);
    }
    let version = &before.version;
    match (&before.digest, &served.model_digest) {
        (Some(before), Some(now)) if before != now => Err(format!(
            "{version} names other files than {idle} served before: their digest is {now}, not {before}"
        )),
        (Some(_), None) if *version == plan.release.version => Err(format!(
            "the release that failed has the same version, and {idle} reports no digest any more"
        )),
        _ => Ok(()),
    }
}
