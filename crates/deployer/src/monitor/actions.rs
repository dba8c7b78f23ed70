//! The actions of the monitor on a color that is down.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    adapters::notify::Kind,
    color::Color,
    config::FleetKind,
    deployment::{
        phase::Phase,
        traffic_mover::{PendingCleanup, TrafficMover},
    },
    event::{Event, Reporter},
    monitor::{
        color::index,
        service::{Monitor, lock},
        standby::{FlagDecision, LastDeployment, failover, standby_needs_start},
    },
    ports::{Ports, Service, ServiceState},
    report::Reports,
    state::{action::Action, journal::Journal},
};

/// Until a fit flag is tried again that could not be changed. With several routers each try asks all of them, and holds the
/// lock meanwhile.
const FLAG_PAUSE: Duration = Duration::from_secs(30);

impl Monitor<'_> {
    pub(super) fn set_flag_removed(&mut self, color: Color, flag_removed: Option<LastDeployment>) {
        self.state.colors[index(color)].flag_removed = flag_removed;
        self.save_state();
    }

    /// Removes the fit flag of a standby that is down, and restores it when the standby is up.
    pub(crate) async fn update_fit_flag(
        &mut self,
        color: Color,
        active: Color,
        last_deployment: &LastDeployment,
    ) {
        let Some(view) = self.view(color, active, last_deployment).await else {
            return;
        };
        let fit = match self.color_memory(color).decide_flag(view) {
            FlagDecision::Keep => return,
            FlagDecision::Forget => {
                self.set_flag_removed(color, None);
                return;
            }
            FlagDecision::Remove => false,
            FlagDecision::Restore => true,
        };
        let failed = &self.colors[index(color)].flag_failed;
        if failed.is_some_and(|at| at.elapsed() < FLAG_PAUSE) {
            return;
        }
        let Some(_lock) = self.lock().await else {
            return;
        };
        // A deployment or a move may have happened before the lock was taken.
        if self.ports.flags.active().await != Ok(active)
            || self.last_deployment().await.as_ref() != Some(last_deployment)
        {
            return;
        }
        // Written before the flag is removed: a monitor that is killed in between removes it again.
        if !fit {
            self.set_flag_removed(color, Some(last_deployment.clone()));
        }
        if let Err(error) = self.ports.flags.set_fit(color, fit).await {
            self.colors[index(color)].flag_failed = Some(Instant::now());
            self.note(error.to_string());
            return;
        }
        self.colors[index(color)].flag_failed = None;
        if fit {
            self.set_flag_removed(color, None);
        }
        self.note(if fit {
            format!("{color} may stand in again")
        } else {
            format!("{color} may not stand in until it is healthy")
        });
    }

    /// Moves traffic away from an active color that is down.
    pub(crate) async fn fail_over(&mut self, active: Color) {
        let Some(to) = self.failover_target(active).await else {
            return;
        };
        let Some(journal) = self.lock().await else {
            return;
        };
        let reports = Reports::of(&self.settings.state);
        let traffic_mover = TrafficMover {
            ports: self.ports,
            journal: &journal,
            reports: &reports,
            reporter: self.reporter,
        };
        // Completes or undoes what an interrupted command left.
        if let Err(error) = traffic_mover.resume(false).await {
            self.note(error.to_string());
            return;
        }
        if self.ports.router.active().await.ok() != Some(active) {
            return;
        }
        // Only a proven release may stand in later. Having had traffic is no proof.
        let proven = self.ports.flags.is_fit(active).await == Ok(true)
            || was_promoted(&journal, active).await;
        let down = self.describe_outage(active);
        let reason = match self.settings.fleet.kind {
            FleetKind::Static => down.clone(),
            FleetKind::Compose | FleetKind::Process | FleetKind::Kubernetes => {
                format!("{down}; what still runs of it is stopped")
            }
        };
        let moved = traffic_mover.move_traffic(Action::FailedOver, active, to, &reason);
        let text = match moved.await {
            Ok(moved) => {
                self.failover_failed = false;
                if proven {
                    let last_deployment = self.last_deployment().await;
                    self.set_flag_removed(active, last_deployment);
                }
                let job = clean_up(self.ports, journal, reports, self.reporter, moved);
                self.job = Some(Box::pin(job));
                format!("all traffic moved to {to}, since {reason}")
            }
            Err(error) => {
                // Either traffic moved, or nothing changed.
                if let Err(error) = traffic_mover.resume(false).await {
                    self.note(error.to_string());
                }
                if std::mem::replace(&mut self.failover_failed, true) {
                    return;
                }
                format!("traffic could not be moved to {to}, though {down}: {error}")
            }
        };
        self.alert(Kind::Failover, Some(to), text);
    }

    /// Returns the color to which traffic moves if `active` is down and the other color can stand in.
    async fn failover_target(&mut self, active: Color) -> Option<Color> {
        let standby = active.other();
        let fit = self.ports.flags.is_fit(standby).await == Ok(true);
        let up = self.colors[index(active)].tracker.is_up();
        let well = self.colors[index(standby)].is_well();
        if up {
            self.failover_failed = false;
        }
        failover(active, up, fit, well).filter(|_| self.settings.monitor.failover)
    }

    /// Says which release was down on `color`, and why.
    fn describe_outage(&self, color: Color) -> String {
        let monitored = &self.colors[index(color)];
        let trouble = monitored.trouble.as_deref().unwrap_or("it went down");
        format!("{color}{} was down: {trouble}", monitored.shown_version())
    }

    /// Starts a standby that does not run. A color that is neither active nor a standby counts as up, so it is never
    /// started.
    pub(crate) fn start_stopped_standby(&mut self, standby: Color) {
        let monitored = &self.colors[index(standby)];
        let since_restart = monitored.restarted.map(|at| at.elapsed());
        if self.settings.monitor.restart_standby
            && self.job.is_none()
            && standby_needs_start(monitored.tracker.is_up(), since_restart)
        {
            let job = start_if_stopped(self.ports, self.reporter, standby);
            self.job = Some(Box::pin(job));
        }
    }
}

/// Returns whether the last deployment promoted the release that `color` runs.
async fn was_promoted(journal: &Journal<'_>, color: Color) -> bool {
    let last = journal.read().await.unwrap_or_default().deployment;
    last.is_some_and(|last| last.phase == Phase::Promoted && last.plan.idle == color)
}

/// Stops the color that traffic left. Holds the lock until then.
pub(super) async fn clean_up(
    ports: &Ports,
    journal: Journal<'_>,
    reports: Reports,
    reporter: &dyn Reporter,
    pending: PendingCleanup,
) -> Option<Color> {
    let traffic_mover = TrafficMover {
        ports,
        journal: &journal,
        reports: &reports,
        reporter,
    };
    traffic_mover.clean_up(pending).await;
    None
}

async fn start_if_stopped(ports: &Ports, reporter: &dyn Reporter, standby: Color) -> Option<Color> {
    let state = ports.fleet.inspect(Service::Server(standby)).await;
    let Ok((ServiceState::Stopped(how) | ServiceState::Paused(how), Some(version))) = state else {
        return None;
    };
    let _lock = lock(ports, reporter).await?;
    // The candidate of an unfinished deployment was stopped on purpose, and traffic may have moved before the lock was
    // taken.
    let entries = ports.journal.read().await.ok()?;
    if entries.unfinished_deployment().is_some()
        || ports.flags.active().await != Ok(standby.other())
    {
        return None;
    }
    let note = |text: String| reporter.report(&Event::Note { text });
    note(format!("starting {standby} with {version} again: {how}"));
    if let Err(error) = ports.fleet.start(standby, &version).await {
        note(error.to_string());
    }
    Some(standby)
}
