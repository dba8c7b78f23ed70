//! What the watch does about a color that is down.

use std::{pin::Pin, time::Duration};

use super::{Watching, index};
use crate::{
    adapters::alerts::Kind,
    color::Color,
    config::{FleetKind, Settings},
    event::{Event, Reporter},
    history::Deed,
    holder::WATCH,
    journal::{self, Journal, JournalError},
    monitor::{Flag, Kept, Standing, failover},
    phase::Phase,
    ports::{Service, State, World},
    transfer::{Moved, Transfer},
};

/// A standby that does not run is started again this often at most.
const BETWEEN_RESTARTS: Duration = Duration::from_mins(1);

/// What may take its time, Docker's or that of a color that does not end, while both colors are checked
/// on: a standby is started, and then it is that color; or the color that traffic left is stopped.
pub(super) type Job<'a> = Pin<Box<dyn Future<Output = Option<Color>> + 'a>>;

impl Watching<'_> {
    pub(super) fn kept(&self, color: Color) -> &Kept {
        &self.memory.colors[index(color)]
    }

    fn remember_taken(&mut self, color: Color, taken: Option<Standing>) {
        self.memory.colors[index(color)].taken = taken;
        self.keep();
    }

    /// Takes the fit flag off a sick standby, and sets it again when it is well.
    pub(super) fn mind_the_flag(&mut self, color: Color, active: Color, standing: &Standing) {
        let look = self.look(color, active, standing);
        let fit = match self.kept(color).flag(look) {
            Flag::Leave => return,
            Flag::Forget => {
                self.remember_taken(color, None);
                return;
            }
            Flag::Take => false,
            Flag::Restore => true,
        };
        let Some(_lock) = self.lock() else { return };
        // Between the look and the lock somebody may have deployed or moved traffic.
        if self.world.router.flagged() != active || self.standing() != *standing {
            return;
        }
        // Written down as long as the flag is gone: a watch that is killed in between does it again.
        if !fit {
            self.remember_taken(color, Some(standing.clone()));
        }
        if let Err(error) = self.world.router.set_fit(color, fit) {
            self.note(error.to_string());
            return;
        }
        if fit {
            self.remember_taken(color, None);
        }
        self.note(if fit {
            format!("{color} may stand in again")
        } else {
            format!("{color} may not stand in until it is well")
        });
    }

    /// Moves traffic away from an active color that is down.
    pub(super) async fn fail_over(&mut self, active: Color) {
        let standby = active.other();
        let fit = self.world.router.is_fit(standby);
        let (up, well) = (
            self.colors[index(active)].pulse.is_up(),
            self.colors[index(standby)].is_well(),
        );
        if up {
            self.failover_failed = false;
        }
        let Some(to) = failover(active, up, fit, well).filter(|_| self.settings.monitor.failover)
        else {
            return;
        };
        let Some(journal) = self.lock() else { return };
        let transfer = Transfer {
            world: self.world,
            journal: &journal,
            reporter: self.reporter,
        };
        // What an interrupted command left is told apart from this first.
        if let Err(error) = transfer.finish(false).await {
            self.note(error.to_string());
            return;
        }
        if self.world.router.active().await.ok() != Some(active) {
            return;
        }
        // Only what was proven may stand in when it is well again; that it had traffic is no proof.
        let proven = self.world.router.is_fit(active) || was_promoted(&journal, active);
        let watched = &self.colors[index(active)];
        let trouble = watched.trouble.as_deref().unwrap_or("it went down");
        let down = format!("{active}{} was down: {trouble}", watched.shown_version());
        let reason = match self.settings.fleet.kind {
            FleetKind::Static => down.clone(),
            FleetKind::Compose | FleetKind::Process => {
                format!("{down}; what still runs of it is stopped")
            }
        };
        let moved = transfer.move_traffic(Deed::FailedOver, active, to, &reason);
        let text = match moved.await {
            Ok(moved) => {
                self.failover_failed = false;
                if proven {
                    let standing = self.standing();
                    self.remember_taken(active, Some(standing));
                }
                let job = clean_up(self.world, journal, self.reporter, moved);
                self.job = Some(Box::pin(job));
                format!("all traffic moved to {to}, since {reason}")
            }
            Err(error) => {
                // Either it did move, or everything is as it was.
                if let Err(error) = transfer.finish(false).await {
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

    /// Has a standby started again that does not run any more.
    pub(super) fn restart(&mut self, standby: Color) {
        let watched = &self.colors[index(standby)];
        let lately = watched
            .restarted
            .is_some_and(|at| at.elapsed() < BETWEEN_RESTARTS);
        if self.settings.monitor.restart_standby
            && !watched.pulse.is_up()
            && !lately
            && self.job.is_none()
        {
            let job = start_if_stopped(self.settings, self.world, self.reporter, standby);
            self.job = Some(Box::pin(job));
        }
    }

    /// None when a deployer is at work, which minds the flags itself.
    pub(super) fn lock(&self) -> Option<Journal> {
        lock(self.settings, self.reporter)
    }
}

fn lock(settings: &Settings, reporter: &dyn Reporter) -> Option<Journal> {
    match Journal::lock(&settings.state, WATCH) {
        Ok(journal) => Some(journal),
        Err(JournalError::Busy { .. }) => None,
        Err(error) => {
            let text = error.to_string();
            reporter.report(&Event::Note { text });
            None
        }
    }
}

/// Whether the last deployment ended with what `color` runs as proven.
fn was_promoted(journal: &Journal, color: Color) -> bool {
    let last = journal.last().ok().flatten();
    last.is_some_and(|last| last.phase == Phase::Promoted && last.plan.idle == color)
}

/// Keeps the lock until it is done: whoever comes next must not find the color half stopped.
async fn clean_up(
    world: &World,
    journal: Journal,
    reporter: &dyn Reporter,
    moved: Moved,
) -> Option<Color> {
    let transfer = Transfer {
        world,
        journal: &journal,
        reporter,
    };
    transfer.clean_up(moved).await;
    None
}

async fn start_if_stopped(
    settings: &Settings,
    world: &World,
    reporter: &dyn Reporter,
    standby: Color,
) -> Option<Color> {
    let state = world.fleet.inspect(Service::Server(standby)).await;
    let Ok((State::Stopped(how), Some(version))) = state else {
        return None;
    };
    let _lock = lock(settings, reporter)?;
    // A candidate that lost its traffic was stopped on purpose, and so is one of a deployment that
    // nobody brought to its end yet.
    let unfinished =
        matches!(journal::last_entry(&settings.state), Ok(Some(last)) if !last.phase.is_end());
    if unfinished || world.router.flagged() == standby {
        return None;
    }
    let note = |text: String| reporter.report(&Event::Note { text });
    note(format!("starting {standby} with {version} again: {how}"));
    if let Err(error) = world.fleet.start(standby, &version).await {
        note(error.to_string());
    }
    Some(standby)
}
