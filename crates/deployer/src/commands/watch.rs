//! `deployer watch`

mod deeds;
mod memory;
mod metrics;
mod watched;

use std::{pin::pin, time::Duration};

use jiff::Timestamp;
use tokio::{
    net::TcpListener,
    time::{Instant, MissedTickBehavior},
};

use self::{
    deeds::Job,
    memory::Memory,
    metrics::Metrics,
    watched::{Watched, index},
};
use super::{Done, Ended, told_to_stop};
use crate::{
    adapters::{
        self,
        alerts::{Alert, Alerts, Kind},
    },
    color::Color,
    config::Settings,
    event::{Event, Reporter},
    examples::{Example, Examples},
    holder::{Holder, WATCH},
    intent,
    journal::{self, Entry},
    monitor::{Look, Pulse, Standing},
    phase::Phase,
    ports::{Target, World, WorldError},
    release::Health,
};

/// The router's logs are looked at for their size this often.
const BETWEEN_TRIMS: Duration = Duration::from_mins(1);

pub(super) async fn run(
    settings: &Settings,
    world: &World,
    reporter: &dyn Reporter,
) -> anyhow::Result<Done> {
    let examples = Examples::read(settings).map_err(Ended::usage)?;
    let metrics = Metrics::default();
    let listener = match settings.monitor.metrics {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            Ended::usage(format!("cannot serve metrics at {address}: {error}"))
        })?),
        None => None,
    };
    let alerts = Alerts::new(settings, Some(settings.state.join("alerts.json")))?;
    let mut memory = Memory::read(&settings.state);
    // A watch that was killed between saying something and remembering it.
    for alert in alerts.undelivered() {
        match alert.kind {
            Kind::Down => memory.set_down(alert.color, true),
            Kind::Up => memory.set_down(alert.color, false),
            Kind::Failover | Kind::Interrupted | Kind::Test => {}
        }
    }
    let mut watching = Watching {
        settings,
        reporter,
        world,
        example: examples.golden.first(),
        alerts,
        router: settings.monitor.pulse(!memory.router_down),
        colors: Color::BOTH.map(|color| Watched::new(settings, &memory.colors[index(color)])),
        memory,
        suspect: None,
        failover_failed: false,
        job: None,
        trimmed: None,
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
        () = watching.until_told_to_stop() => {}
        served = metrics::serve(listener, &metrics) => return Err(served),
    }
    Ok(Done::fine("stopped watching"))
}

struct Watching<'a> {
    settings: &'a Settings,
    reporter: &'a dyn Reporter,
    world: &'a World,
    example: Option<&'a Example>,
    alerts: Alerts,
    router: Pulse,
    colors: [Watched; 2],
    /// What the next watch must know.
    memory: Memory,
    /// What looked interrupted in the last round.
    suspect: Option<String>,
    /// Traffic could not be moved, and this was said.
    failover_failed: bool,
    /// A color that is being started or stopped.
    job: Option<Job<'a>>,
    trimmed: Option<Instant>,
    metrics: &'a Metrics,
}

/// What everybody said when asked.
struct Answers {
    active: Result<Color, WorldError>,
    colors: [Result<Health, String>; 2],
}

impl Answers {
    async fn get(world: &World, example: Option<&Example>) -> Self {
        let (active, blue, green) = tokio::join!(
            world.router.active(),
            check(world, Color::Blue, example),
            check(world, Color::Green, example),
        );
        Self {
            active,
            colors: [blue, green],
        }
    }
}

/// A health check and a test request, as in a deployment's watch.
async fn check(world: &World, color: Color, example: Option<&Example>) -> Result<Health, String> {
    let target = Target::Server(color);
    let predict = async {
        match example {
            Some(example) => world.probe.predict(target, example).await.map(drop),
            None => Ok(()),
        }
    };
    let (health, predicted) = tokio::join!(world.probe.health(target), predict);
    predicted.and(health).map_err(|error| error.to_string())
}

impl Watching<'_> {
    async fn until_told_to_stop(&mut self) {
        // What was logged before is nothing new.
        let _ = self.world.traffic.as_ref().map(|it| it.new_requests());
        let mut ticks = tokio::time::interval(self.settings.monitor.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (world, example) = (self.world, self.example);
        let mut stop = pin!(told_to_stop());
        loop {
            let job = async {
                match &mut self.job {
                    Some(job) => job.await,
                    None => std::future::pending().await,
                }
            };
            let answers = async {
                ticks.tick().await;
                Answers::get(world, example).await
            };
            tokio::select! {
                biased;
                () = &mut stop => return,
                started = job => {
                    self.job = None;
                    if let Some(color) = started {
                        self.colors[index(color)].restarted = Some(Instant::now());
                    }
                }
                // Seen through once it has begun: traffic that moves is written down.
                answers = answers => self.take_in(answers).await,
            }
        }
    }

    /// Says what changed, and does what is to be done.
    async fn take_in(&mut self, Answers { active, colors }: Answers) {
        for (watched, answer) in self.colors.iter_mut().zip(colors) {
            watched.take_in(answer);
        }
        if self.router.see(active.is_ok()) {
            let (kind, text) = match &active {
                Ok(_) => (Kind::Up, "the router answers again".to_owned()),
                Err(error) => (Kind::Down, format!("the router is down: {error}")),
            };
            self.alert(kind, None, text);
            self.memory.set_down(None, active.is_err());
            self.keep();
        }
        let router_answers = active.is_ok();
        // Both colors are looked after all the same: the flags say whose turn it is.
        let active = active.unwrap_or_else(|_| self.world.router.flagged());
        let entry = journal::last_entry(&self.settings.state).ok().flatten();
        let standing = entry.as_ref().map(Entry::standing).unwrap_or_default();
        let holder = journal::at_work(&self.settings.state);
        let busy = holder.as_ref().is_some_and(|it| !self.is_this(it));
        for color in Color::BOTH {
            // A deployment changes the idle color under our eyes, and looks after it itself.
            let replaced =
                busy && color != active && entry.as_ref().is_some_and(|it| replaces(it, color));
            if replaced
                || !self
                    .kept(color)
                    .matters(self.look(color, active, &standing))
            {
                self.begin_anew(color);
                continue;
            }
            let watched = &mut self.colors[index(color)];
            if watched.pulse.see(watched.trouble.is_none()) {
                self.tell_of(color, active);
            }
        }
        if !busy {
            for color in Color::BOTH {
                self.mind_the_flag(color, active, &standing);
            }
            if router_answers {
                self.fail_over(active).await;
            }
            self.restart(active.other());
            // What this watch is about looks the same until it is done.
            if holder.is_none() {
                self.tell_of_interruption(entry.as_ref());
            }
            self.trim_logs();
        }
        let (settings, world) = (self.settings, self.world);
        self.metrics.update(settings, world, active, &self.colors);
        self.metrics.update_router(router_answers);
    }

    /// Whether it is this watch that holds the lock, for its job.
    fn is_this(&self, holder: &Holder) -> bool {
        let this = Holder::this(WATCH);
        self.job.is_some()
            && (&holder.command, &holder.by, holder.pid) == (&this.command, &this.by, this.pid)
    }

    fn standing(&self) -> Standing {
        let entry = journal::last_entry(&self.settings.state).ok().flatten();
        entry.as_ref().map(Entry::standing).unwrap_or_default()
    }

    fn look<'b>(&self, color: Color, active: Color, standing: &'b Standing) -> Look<'b> {
        Look {
            active: color == active,
            fit: self.world.router.is_fit(color),
            up: self.colors[index(color)].pulse.is_up(),
            standing,
        }
    }

    /// Whatever is there next has a clean record.
    fn begin_anew(&mut self, color: Color) {
        self.colors[index(color)].pulse = self.settings.monitor.pulse(true);
        if std::mem::take(&mut self.memory.colors[index(color)].down) {
            self.keep();
        }
    }

    /// Says that a color went down or came back.
    fn tell_of(&mut self, color: Color, active: Color) {
        let watched = &self.colors[index(color)];
        let down = !watched.pulse.is_up();
        let role = if color == active {
            "active"
        } else {
            "the standby"
        };
        let who = format!("{color}{}, {role},", watched.shown_version());
        let (kind, text) = match &watched.trouble {
            Some(trouble) if down => (Kind::Down, format!("{who} is down: {trouble}")),
            _ => (Kind::Up, format!("{who} is up again")),
        };
        // In this order: a watch that is killed in between says it twice rather than never.
        self.alert(kind, Some(color), text);
        self.memory.set_down(Some(color), down);
        self.keep();
    }

    /// Says once that a command was interrupted and that nobody has come for what it left.
    fn tell_of_interruption(&mut self, entry: Option<&Entry>) {
        let state = &self.settings.state;
        let intent = intent::read(state).map(|intent| (intent.at.to_string(), intent.words()));
        let deployment = entry.filter(|entry| !entry.phase.is_end()).map(|entry| {
            let (id, phase) = (&entry.plan.id, entry.phase);
            (
                format!("{id} {phase}"),
                format!("deployment {id}, last seen {phase},"),
            )
        });
        let found = intent.or(deployment);
        let key = found.as_ref().map(|(key, _)| key.clone());
        // One that ends between two looks leaves the same trace for a moment.
        let lasts = key.is_some() && key == self.suspect;
        self.suspect.clone_from(&key);
        let Some((_, what)) = found.filter(|_| lasts && key != self.memory.interrupted) else {
            return;
        };
        self.alert(
            Kind::Interrupted,
            None,
            format!("{what} was interrupted: `deployer recover` brings it to its end"),
        );
        self.memory.interrupted = key;
        self.keep();
        // Copies of clients' requests may still be made for it.
        if self.lock().is_some()
            && let Err(error) = self.world.router.set_shadow(false)
        {
            self.note(error.to_string());
        }
    }

    fn trim_logs(&mut self) {
        if self.trimmed.is_some_and(|at| at.elapsed() < BETWEEN_TRIMS) {
            return;
        }
        let first = self.trimmed.replace(Instant::now()).is_none();
        if let Err(error) = adapters::trim_logs(self.settings)
            && first
        {
            self.note(error.to_string());
        }
    }

    fn alert(&self, kind: Kind, color: Option<Color>, text: String) {
        self.note(text.clone());
        self.alerts.send(&Alert {
            kind,
            at: Timestamp::now(),
            color,
            text,
        });
    }

    fn note(&self, text: String) {
        self.reporter.report(&Event::Note { text });
    }

    fn keep(&self) {
        if let Err(error) = self.memory.write(&self.settings.state) {
            self.note(format!("cannot write what the watch knows: {error}"));
        }
    }
}

/// Whether a deployment that goes on puts something else on `color`.
fn replaces(entry: &Entry, color: Color) -> bool {
    entry.plan.idle == color && entry.phase != Phase::Planned && !entry.phase.is_end()
}
