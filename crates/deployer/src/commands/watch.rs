//! `deployer watch`

mod metrics;

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    time::{Instant, MissedTickBehavior},
};

use self::metrics::Metrics;
use super::{Done, Ended, move_traffic, told_to_stop};
use crate::{
    adapters::{
        self,
        alerts::{Alert, Alerts},
    },
    color::Color,
    config::Settings,
    event::{Event, Reporter},
    examples::{Example, Examples},
    history::Deed,
    journal::{self, Journal, JournalError},
    monitor::{Flag, Kept, Look, Pulse, Standing, failover},
    ports::{Service, State, Target, World},
    release::Health,
};

/// A standby that does not run is started again this often at most.
const BETWEEN_RESTARTS: Duration = Duration::from_mins(1);

pub(super) async fn run(settings: &Settings, reporter: &dyn Reporter) -> anyhow::Result<Done> {
    let examples = Examples::read(settings).map_err(Ended::usage)?;
    let metrics = Metrics::default();
    let world = adapters::connect(settings)?;
    let listener = match settings.monitor.metrics {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            Ended::usage(format!("cannot serve metrics at {address}: {error}"))
        })?),
        None => None,
    };
    let mut watching = Watching {
        settings,
        reporter,
        world: &world,
        example: examples.golden.first(),
        alerts: Alerts::new(settings)?,
        router: settings.monitor.pulse(true),
        colors: read_kept(&kept_path(settings)).map(|kept| Watched::new(settings, kept)),
        metrics: &metrics,
    };
    let receivers = match &watching.alerts.names()[..] {
        [] => "nobody".to_owned(),
        names => names.join(" and "),
    };
    watching.note(format!(
        "watching both colors every {}; {} failed checks in a row mean down; alerts go to {receivers}",
        humantime::format_duration(settings.monitor.interval),
        settings.monitor.fall
    ));
    tokio::select! {
        never = watching.forever() => match never {},
        served = metrics::serve(listener, &metrics) => return Err(served),
        () = told_to_stop() => {}
    }
    Ok(Done::fine("stopped watching"))
}

/// One color, as it was last seen.
struct Watched {
    pulse: Pulse,
    kept: Kept,
    /// What it last told of itself.
    health: Health,
    /// Why its last check failed; none when it passed.
    trouble: Option<String>,
    restarted: Option<Instant>,
}

impl Watched {
    fn new(settings: &Settings, kept: Kept) -> Self {
        Self {
            pulse: settings.monitor.pulse(!kept.down),
            kept,
            health: Health::default(),
            trouble: None,
            restarted: None,
        }
    }

    fn take_in(&mut self, answer: Result<Health, String>) {
        match answer {
            Ok(health) => (self.health, self.trouble) = (health, None),
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    fn is_well(&self) -> bool {
        self.pulse.is_up() && self.trouble.is_none()
    }

    fn version(&self) -> &str {
        self.health.model_version.as_deref().unwrap_or("unknown")
    }

    /// Behind a color's name.
    fn shown_version(&self) -> String {
        let version = self.health.model_version.as_ref();
        version.map_or_else(String::new, |version| format!(" ({version})"))
    }
}

struct Watching<'a> {
    settings: &'a Settings,
    reporter: &'a dyn Reporter,
    world: &'a World,
    example: Option<&'a Example>,
    alerts: Alerts,
    router: Pulse,
    colors: [Watched; 2],
    metrics: &'a Metrics,
}

impl Watching<'_> {
    async fn forever(&mut self) -> Infallible {
        let mut ticks = tokio::time::interval(self.settings.monitor.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What was logged before is nothing new.
        let _ = self.world.traffic.as_ref().map(|it| it.new_requests());
        loop {
            ticks.tick().await;
            self.round().await;
        }
    }

    /// Looks at everything, says what changed, and does what is to be done.
    async fn round(&mut self) {
        let (active, blue, green) = tokio::join!(
            self.world.router.active(),
            self.check(Color::Blue),
            self.check(Color::Green),
        );
        for (watched, answer) in self.colors.iter_mut().zip([blue, green]) {
            watched.take_in(answer);
        }
        if self.router.see(active.is_ok()) {
            match &active {
                Ok(_) => self.alert("up", None, "the router answers again".to_owned()),
                Err(error) => self.alert("down", None, format!("the router is down: {error}")),
            }
        }
        let Ok(active) = active else { return };
        // A deployment changes the idle color under our eyes, and looks after it itself.
        let deploying = journal::at_work(&self.settings.state).is_some();
        let standing = self.standing();
        for color in Color::BOTH {
            let look = self.look(color, active, &standing);
            let watched = &mut self.colors[index(color)];
            if !watched.kept.matters(look) || (deploying && color != active) {
                // Whatever is there next begins with a clean record.
                watched.pulse = self.settings.monitor.pulse(true);
                if std::mem::take(&mut watched.kept.down) {
                    self.keep();
                }
                continue;
            }
            if watched.pulse.see(watched.trouble.is_none()) {
                self.tell_of(color, active);
            }
        }
        if !deploying {
            for color in Color::BOTH {
                self.mind_the_flag(color, active, &standing).await;
            }
            self.fail_over(active).await;
            self.restart(active.other()).await;
        }
        self.metrics
            .update(self.settings, self.world, active, &self.colors);
    }

    /// A health check and a test request, as in a deployment's watch.
    async fn check(&self, color: Color) -> Result<Health, String> {
        let target = Target::Server(color);
        let predict = async {
            match self.example {
                Some(example) => self.world.probe.predict(target, example).await.map(drop),
                None => Ok(()),
            }
        };
        let (health, predicted) = tokio::join!(self.world.probe.health(target), predict);
        predicted.and(health).map_err(|error| error.to_string())
    }

    fn standing(&self) -> Standing {
        let last = journal::last_entry(&self.settings.state).ok().flatten()?;
        Some((last.plan.id, last.phase))
    }

    fn look<'b>(&self, color: Color, active: Color, standing: &'b Standing) -> Look<'b> {
        Look {
            active: color == active,
            fit: self.world.router.is_fit(color),
            up: self.colors[index(color)].pulse.is_up(),
            standing,
        }
    }

    /// Says that a color went down or came back.
    fn tell_of(&mut self, color: Color, active: Color) {
        let watched = &mut self.colors[index(color)];
        let down = !watched.pulse.is_up();
        watched.kept.down = down;
        let role = if color == active {
            "active"
        } else {
            "the standby"
        };
        let who = format!("{color}{}, {role},", watched.shown_version());
        match &watched.trouble {
            Some(trouble) if down => {
                let text = format!("{who} is down: {trouble}");
                self.alert("down", Some(color), text);
            }
            _ => self.alert("up", Some(color), format!("{who} is up again")),
        }
        self.keep();
    }

    /// Takes the fit flag off a sick standby, and sets it again when it is well.
    async fn mind_the_flag(&mut self, color: Color, active: Color, standing: &Standing) {
        let look = self.look(color, active, standing);
        let fit = match self.colors[index(color)].kept.flag(look) {
            Flag::Leave => return,
            Flag::Forget => {
                self.colors[index(color)].kept.taken = None;
                self.keep();
                return;
            }
            Flag::Take => false,
            Flag::Restore => true,
        };
        let Some(_lock) = self.lock() else { return };
        // Between the look and the lock somebody may have deployed or moved traffic.
        let still_active = self.world.router.active().await.ok() == Some(active);
        if !still_active || self.standing() != *standing {
            return;
        }
        // Written down as long as the flag is gone: a watch that is killed in between does it again.
        if !fit {
            self.colors[index(color)].kept.taken = Some(standing.clone());
            self.keep();
        }
        if let Err(error) = self.world.router.set_fit(color, fit) {
            self.note(error.to_string());
            return;
        }
        if fit {
            self.colors[index(color)].kept.taken = None;
            self.keep();
        }
        self.note(if fit {
            format!("{color} may stand in again")
        } else {
            format!("{color} may not stand in until it is well")
        });
    }

    /// Moves traffic away from an active color that is down.
    async fn fail_over(&mut self, active: Color) {
        let standby = active.other();
        let fit = self.world.router.is_fit(standby);
        let (up, well) = (
            self.colors[index(active)].pulse.is_up(),
            self.colors[index(standby)].is_well(),
        );
        let Some(to) = failover(active, up, fit, well).filter(|_| self.settings.monitor.failover)
        else {
            return;
        };
        let Some(journal) = self.lock() else { return };
        if self.world.router.active().await.ok() != Some(active) {
            return;
        }
        let watched = &self.colors[index(active)];
        let trouble = watched.trouble.as_deref().unwrap_or("it went down");
        let reason = format!("{active}{} was down: {trouble}", watched.shown_version());
        // The flag first, so that the sick color never stands in for the other.
        let moved = match self.world.router.set_fit(active, false) {
            Ok(()) => {
                let (world, reporter) = (self.world, self.reporter);
                move_traffic(world, &journal, reporter, to, Deed::FailedOver, &reason).await
            }
            Err(error) => Err(error),
        };
        drop(journal);
        let text = match moved {
            Ok(()) => format!("all traffic moved to {to}, since {reason}"),
            Err(error) => format!("traffic could not be moved to {to}, though {reason}: {error}"),
        };
        // It was active, so it was proven: it may stand in when it is well.
        self.colors[index(active)].kept.taken = Some(self.standing());
        self.keep();
        self.alert("failover", Some(to), text);
    }

    /// Starts a standby again that does not run any more.
    async fn restart(&mut self, standby: Color) {
        let watched = &self.colors[index(standby)];
        let lately = watched
            .restarted
            .is_some_and(|at| at.elapsed() < BETWEEN_RESTARTS);
        if !self.settings.monitor.restart_standby || watched.pulse.is_up() || lately {
            return;
        }
        let state = self.world.fleet.inspect(Service::Server(standby)).await;
        let Ok((State::Stopped(how), Some(version))) = state else {
            return;
        };
        let Some(_lock) = self.lock() else { return };
        self.note(format!("starting {standby} with {version} again: {how}"));
        if let Err(error) = self.world.fleet.start(standby, &version).await {
            self.note(error.to_string());
        }
        self.colors[index(standby)].restarted = Some(Instant::now());
    }

    /// None when a deployer is at work, which minds the flags itself.
    fn lock(&self) -> Option<Journal> {
        match Journal::lock(&self.settings.state, "watch") {
            Ok(journal) => Some(journal),
            Err(JournalError::Busy { .. }) => None,
            Err(error) => {
                self.note(error.to_string());
                None
            }
        }
    }

    fn alert(&self, kind: &'static str, color: Option<Color>, text: String) {
        self.note(text.clone());
        self.alerts.send(&Alert { kind, color, text });
    }

    fn note(&self, text: String) {
        self.reporter.report(&Event::Note { text });
    }

    /// Writes down what the next watch must know.
    fn keep(&self) {
        let kept = self.colors.each_ref().map(|watched| &watched.kept);
        let written = serde_json::to_string(&kept)
            .map_err(std::io::Error::from)
            .and_then(|text| journal::replace(&kept_path(self.settings), &text));
        if let Err(error) = written {
            self.note(format!("cannot write what the watch knows: {error}"));
        }
    }
}

fn index(color: Color) -> usize {
    match color {
        Color::Blue => 0,
        Color::Green => 1,
    }
}

fn kept_path(settings: &Settings) -> PathBuf {
    settings.state.join("watch.json")
}

/// What an earlier watch left; without it both are taken to be well.
fn read_kept(path: &Path) -> [Kept; 2] {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}
