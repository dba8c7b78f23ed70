//! What a person asks the monitor for on the page: roll back outside of a deployment, and let a color stand in or not.

use tokio::sync::{mpsc, oneshot};

use crate::{
    color::Color,
    config::FleetKind,
    deployment::{previous::fit_previous, traffic_mover::TrafficMover},
    monitor::{actions::clean_up, color::index, service::Monitor},
    ports::{JournalError, Ports, Target},
    release::Health,
    report::Reports,
    state::{action::Action, history::HistoryEntry, journal::Journal, lock_holder::MONITOR},
};

/// What a person asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PageAction {
    /// Move all traffic to the other color. `release` is what the person typed: the release that loses the traffic.
    RollBack {
        /// The version of the active color, or the color's name if it reports no version.
        release: String,
    },
    /// Let a color stand in for the other one, or not.
    StandIn {
        /// The color without the traffic.
        color: Color,
        /// Whether it may stand in.
        fit: bool,
    },
}

/// A sentence for the person: what was done, or why nothing was.
pub(crate) type PageAnswer = Result<String, String>;

/// An action, and where its answer goes.
#[derive(Debug)]
pub(crate) struct PageRequest {
    pub(crate) action: PageAction,
    /// Who asks, as the history names the person.
    pub(crate) by: String,
    /// Why.
    pub(crate) reason: String,
    pub(crate) answer: oneshot::Sender<PageAnswer>,
}

/// How many requests may wait for the monitor. More people do not act at the same time.
const MAX_WAITING: usize = 8;

/// Returns the sender for the page, and the receiver for the monitor.
pub(crate) fn channel() -> (mpsc::Sender<PageRequest>, mpsc::Receiver<PageRequest>) {
    mpsc::channel(MAX_WAITING)
}

/// What the monitor receives from its page.
pub(crate) struct PageInbox {
    /// Lines for the log.
    pub(crate) notes: mpsc::Receiver<String>,
    pub(crate) requests: mpsc::Receiver<PageRequest>,
}

/// Something that the page sends to the monitor.
pub(super) enum FromPage {
    Note(String),
    Request(PageRequest),
}

/// Resolves when the page sends something. Without a page it never resolves.
pub(super) async fn next_of(inbox: &mut Option<PageInbox>) -> FromPage {
    let Some(PageInbox { notes, requests }) = inbox else {
        return std::future::pending().await;
    };
    tokio::select! {
        Some(note) = notes.recv() => FromPage::Note(note),
        Some(request) = requests.recv() => FromPage::Request(request),
        // The page is not served any more, which ends the monitor.
        else => std::future::pending().await,
    }
}

impl Monitor<'_> {
    /// Writes a note of the page to the log, or does what a person asks for.
    pub(super) async fn handle(&mut self, from_page: FromPage) {
        match from_page {
            FromPage::Note(text) => self.note(text),
            FromPage::Request(request) => self.carry_out(request).await,
        }
    }

    async fn carry_out(&mut self, request: PageRequest) {
        let PageRequest {
            action,
            by,
            reason,
            answer,
        } = request;
        // The person was told that nothing was done.
        if answer.is_closed() {
            return;
        }
        let done = match &action {
            PageAction::RollBack { release } => self.roll_back(release, &by, &reason).await,
            PageAction::StandIn { color, fit } => {
                self.set_stand_in(*color, *fit, &by, &reason).await
            }
        };
        let (Ok(text) | Err(text)) = &done;
        self.note(format!("asked by {by}: {text}"));
        let active = self.ports.flags.active().await.ok();
        let routers = self.ports.router.routers().await.unwrap_or_default();
        self.show_on_page(active, None, routers).await;
        // A person who went away finds the result in the history.
        let _ = answer.send(done);
    }

    /// Rolls back outside of a deployment. It starts nothing.
    async fn roll_back(&mut self, release: &str, by: &str, reason: &str) -> PageAnswer {
        let journal = lock_for_person(self.ports, self.job.is_some()).await?;
        // Only a killed deployer can have left the copies on.
        if let Err(error) = self.ports.flags.set_shadow(false).await {
            self.note(error.to_string());
        }
        let reports = Reports::of(&self.settings.state);
        let traffic_mover = TrafficMover {
            ports: self.ports,
            journal: &journal,
            reports: &reports,
            reporter: self.reporter,
        };
        traffic_mover
            .resume(false)
            .await
            .map_err(|error| error.to_string())?;
        let active = self
            .ports
            .router
            .active()
            .await
            .map_err(|error| error.to_string())?;
        self.check_typed(active, release).await?;
        let (previous, version) = self.rollback_target(&journal, active).await?;
        let moved = traffic_mover.move_traffic_by(Action::RolledBack, active, previous, reason, by);
        let moved = match moved.await {
            Ok(moved) => moved,
            Err(error) => {
                // Either traffic moved, or nothing changed.
                if let Err(error) = traffic_mover.resume(false).await {
                    self.note(error.to_string());
                }
                return Err(format!("traffic could not be moved to {previous}: {error}"));
            }
        };
        let rest = match (moved.requests_hang(), self.settings.fleet.kind) {
            (true, FleetKind::Static) => format!(
                "{active} is not healthy, and requests may hang on it: stop it in a shell, such as by `docker compose stop {active}`"
            ),
            (true, FleetKind::Compose | FleetKind::Process | FleetKind::Kubernetes) => {
                format!("{active} is not healthy, so the monitor stops it")
            }
            (false, _) => format!(
                "{active} still runs {release} without traffic; `deployer recover` in a shell starts the release there that it held before"
            ),
        };
        let job = clean_up(self.ports, journal, reports, self.reporter, moved);
        self.job = Some(Box::pin(job));
        Ok(format!("rolled back: {previous} serves {version}; {rest}"))
    }

    /// Fails unless the person typed the release that loses the traffic.
    async fn check_typed(&self, active: Color, typed: &str) -> Result<(), String> {
        let health = self.ports.probe.health(Target::Server(active)).await.ok();
        let version = health.and_then(|health| health.model_version);
        // As the page names it: a color that is down by its last version, and one without a version by its color.
        let last_known = self.colors[index(active)].last_health();
        let version = version.or_else(|| last_known.model_version.clone());
        let name = version.as_deref().unwrap_or(active.name());
        if typed == name {
            return Ok(());
        }
        Err(format!(
            "nothing was done: {typed:?} was typed, but {name} loses the traffic"
        ))
    }

    /// Returns the color that gets the traffic, and its version.
    async fn rollback_target(
        &self,
        journal: &Journal<'_>,
        active: Color,
    ) -> Result<(Color, String), String> {
        // A rollback must not wait for an unreadable journal.
        let entries = journal.read().await.unwrap_or_default();
        let previous = match entries.unfinished_deployment() {
            Some(entry) if entry.plan.active == active => {
                return Err(format!(
                    "traffic had not moved when deployment {} was interrupted, so nothing was done: `deployer recover` cleans up",
                    entry.plan.id
                ));
            }
            Some(entry) => entry.plan.active,
            None => fit_previous(self.ports, &entries, active).await?,
        };
        let health = self.ports.probe.health(Target::Server(previous)).await;
        let health = health.map_err(|error| {
            format!("{previous} is not healthy, so traffic stays on {active}: {error}")
        })?;
        let version = health.model_version;
        let version = version.unwrap_or_else(|| "a release that reports no version".to_owned());
        Ok((previous, version))
    }

    /// Sets or removes the fit flag of the color without the traffic.
    async fn set_stand_in(
        &mut self,
        color: Color,
        fit: bool,
        by: &str,
        reason: &str,
    ) -> PageAnswer {
        let ports = self.ports;
        let journal = lock_for_person(ports, self.job.is_some()).await?;
        let active = ports
            .flags
            .active()
            .await
            .map_err(|error| error.to_string())?;
        if color == active {
            return Err(format!(
                "{color} has the traffic, so only {} can stand in",
                color.other()
            ));
        }
        let entries = journal.read().await.map_err(|error| error.to_string())?;
        if let Some(unfinished) = entries.unfinished_deployment() {
            return Err(format!(
                "deployment {} was interrupted, so nothing was done: `deployer recover` completes it first",
                unfinished.plan.id
            ));
        }
        let health = ports.probe.health(Target::Server(color)).await;
        if fit {
            let health = health.as_ref().map_err(|error| {
                format!("{color} is not healthy, so it may not stand in: {error}")
            })?;
            if !self.colors[index(color)].is_well() {
                return Err(format!(
                    "{color} failed a check of the monitor just now, so it may not stand in yet"
                ));
            }
            let history = journal.history().await.map_err(|error| error.to_string())?;
            check_proven(&history, color, health)?;
        }
        if ports
            .flags
            .is_fit(color)
            .await
            .map_err(|error| error.to_string())?
            == fit
        {
            return Ok(format!("nothing to do: {}", may_stand_in(color, fit)));
        }
        // Written first: a flag that a person removed is not restored by the monitor, also if it is killed in between.
        self.set_flag_removed(color, None);
        ports
            .flags
            .set_fit(color, fit)
            .await
            .map_err(|error| error.to_string())?;
        let action = if fit {
            Action::StandInOn
        } else {
            Action::StandInOff
        };
        let version = health.ok().and_then(|health| health.model_version);
        let at = ports.clock.now();
        let entry = HistoryEntry {
            by: by.to_owned(),
            ..HistoryEntry::of_color(action, color, version, at, reason.to_owned())
        };
        if let Err(error) = journal.append_history(&entry).await {
            self.note(error.to_string());
        }
        Ok(may_stand_in(color, fit))
    }
}

fn may_stand_in(color: Color, fit: bool) -> String {
    let other = color.other();
    if fit {
        format!("{color} may stand in for {other}")
    } else {
        format!("{color} may not stand in for {other} until a person or a deployment allows it")
    }
}

/// Takes the lock for what a person asks for. `is_acting` is whether the monitor holds it for an action of its own.
async fn lock_for_person(ports: &Ports, is_acting: bool) -> Result<Journal<'_>, String> {
    if is_acting {
        return Err(
            "the monitor is starting or stopping a color: try again in a moment".to_owned(),
        );
    }
    match Journal::lock(ports, MONITOR).await {
        Ok(journal) => Ok(journal),
        Err(JournalError::Busy { holder }) => {
            let holder = holder.map_or_else(|| "a deployer".to_owned(), |it| it.to_string());
            Err(format!("nothing was done, because {holder} is at work"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Fails unless the release that `color` serves was promoted, or stood in before a person took that away.
pub(super) fn check_proven(
    history: &[HistoryEntry],
    color: Color,
    health: &Health,
) -> Result<(), String> {
    let is_same = |entry: &HistoryEntry| {
        let digests = entry.digest.as_ref().zip(health.model_digest.as_ref());
        entry.version == health.model_version && digests.is_none_or(|(one, other)| one == other)
    };
    let was_promoted = health.model_version.is_some()
        && history
            .iter()
            .any(|entry| entry.action == Action::Promoted && is_same(entry));
    let mut of_color = history.iter().rev().filter(|entry| entry.color == color);
    let stood_in = of_color
        .find(|entry| matches!(entry.action, Action::StandInOn | Action::StandInOff))
        .is_some_and(|entry| entry.action == Action::StandInOff && is_same(entry));
    if was_promoted || stood_in {
        return Ok(());
    }
    let release = health.model_version.as_deref();
    let release = release.unwrap_or("a release that reports no version");
    Err(format!(
        "{color} serves {release}, which was never promoted, so it may not stand in"
    ))
}
