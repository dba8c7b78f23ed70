//! `deployer up`
//!
//! It never gives up at the first error: after a reboot, everything that can serve must serve.

use anyhow::anyhow;
use tokio::time::Instant;

use crate::{
    color::Color,
    commands::{output::CommandOutput, steps::end_leftovers},
    config::Settings,
    deployment::{await_healthy::await_healthy, preflight, restore::ReleaseToHold},
    event::{Event, Reporter},
    ports::{Ports, Service, ServiceState, Target},
    release::{HeldRelease, Release},
};

/// Time between two questions to the router.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// A color, and the release that was started there, or why it does not start.
type Started = (Color, Result<Release, String>);

pub(super) async fn run(
    settings: &Settings,
    ports: &Ports,
    reporter: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let up = Up {
        settings,
        ports,
        reporter,
    };
    end_leftovers(ports, reporter).await;
    if let Err(full) = preflight::room(&settings.state, settings.min_free_megabytes) {
        // After a reboot everything must start nevertheless.
        up.note(full);
    }
    // Clients first. The standby starts when clients can be served, and may be unhealthy.
    let active_by_flag = ports.flags.active().await.unwrap_or_else(|error| {
        up.note(error.to_string());
        // The color without a flag. If it is the wrong one, it starts first, and the other one right after it.
        Color::Blue
    });
    let first = (active_by_flag, up.start(active_by_flag, None).await);
    let router = up.start_router().await;
    let second = (
        active_by_flag.other(),
        up.start_standby(active_by_flag.other()).await,
    );
    if let Err(error) = ports.fleet.start_monitor().await {
        up.note(format!("the monitor does not start: {error}"));
    }
    let active = *router.as_ref().unwrap_or(&active_by_flag);
    let mut started = [first, second];
    started.sort_by_key(|(color, _)| *color != active);
    let mut missing: Vec<String> = router.err().into_iter().collect();
    missing.extend(up.await_colors(active, started).await);
    up.conclude(active, missing).await
}

struct Up<'a> {
    settings: &'a Settings,
    ports: &'a Ports,
    reporter: &'a dyn Reporter,
}

impl Up<'_> {
    fn note(&self, text: String) {
        self.reporter.report(&Event::Note { text });
    }

    /// Starts a color unless it runs: this earlier release, or its last one. Returns the release.
    async fn start(&self, color: Color, earlier: Option<&HeldRelease>) -> Result<Release, String> {
        let fleet = &self.ports.fleet;
        let inspected = fleet.inspect(Service::Server(color)).await;
        let (state, recorded) = inspected.map_err(|error| error.to_string())?;
        let version = earlier.map_or(recorded, |earlier| Some(earlier.version.clone()));
        let release = Release {
            model: self.settings.release.model.clone(),
            version: version.unwrap_or_else(|| self.settings.color(color).version.clone()),
            digest: None,
        };
        if let ServiceState::Stopped(_) | ServiceState::Paused(_) = state {
            self.note(format!("starting {color} with {}", release.version));
            let started = match earlier {
                Some(earlier) => fleet.start_again(color, earlier).await,
                None => fleet.start(color, &release.version).await,
            };
            started.map_err(|error| format!("it does not start: {error}"))?;
        }
        Ok(release)
    }

    /// Starts the idle color. If the last deployment refused or rolled back the release that it holds, the one before starts.
    async fn start_standby(&self, color: Color) -> Result<Release, String> {
        let inspected = self.ports.fleet.inspect(Service::Server(color)).await;
        let Ok((ServiceState::Stopped(_), Some(recorded))) = inspected else {
            return self.start(color, None).await;
        };
        let journal = self.ports.journal.as_ref();
        match ReleaseToHold::of(journal, color, Some(&recorded)).await {
            _ if self.ports.flags.is_fit(color).await == Ok(true) => self.start(color, None).await,
            ReleaseToHold::LastStarted => self.start(color, None).await,
            ReleaseToHold::Earlier { release, .. } if release.version != recorded => {
                self.start(color, Some(&release)).await
            }
            ReleaseToHold::Earlier { .. } | ReleaseToHold::Unknown => Err(format!(
                "it stays stopped: the last deployment refused {recorded}, or rolled it back"
            )),
        }
    }

    /// Starts the router, unless there are several, which their machines start. Returns the active color, or what is wrong.
    async fn start_router(&self) -> Result<Color, String> {
        if self.settings.routers.are_used() {
            let active = self.ports.router.active().await;
            return active.map_err(|error| error.to_string());
        }
        let fleet = &self.ports.fleet;
        match fleet.inspect(Service::Router).await {
            Ok((ServiceState::Stopped(how) | ServiceState::Paused(how), _)) => {
                self.note(format!("starting the router: {how}"));
            }
            Ok((ServiceState::Running, _)) => {
                if let Some(difference) = fleet.router_difference().await {
                    self.note(format!(
                        "the router serves, and is not started again: {difference}"
                    ));
                }
            }
            // Starting it fails alike.
            Ok((ServiceState::Unmanaged, _)) | Err(_) => {}
        }
        let started = fleet.start_router().await;
        started.map_err(|error| format!("the router does not start: {error}"))?;
        self.await_router().await
    }

    /// nginx answers within milliseconds unless it could not start; then its log says why.
    async fn await_router(&self) -> Result<Color, String> {
        let fleet = &self.ports.fleet;
        let deadline = Instant::now() + self.settings.router.confirm_timeout;
        loop {
            let answer = self.ports.router.active().await;
            // After the answer, which another program may have given.
            let stopped = match fleet.inspect(Service::Router).await {
                Ok((ServiceState::Stopped(how) | ServiceState::Paused(how), _)) => Some(how),
                Ok((ServiceState::Running | ServiceState::Unmanaged, _)) => None,
                Err(error) => return Err(error.to_string()),
            };
            let error = match (answer, &stopped) {
                (Ok(active), None) => return Ok(active),
                (Ok(_), Some(_)) => "another program answers on its control port".to_owned(),
                (Err(error), _) => error.to_string(),
            };
            if stopped.is_some() || Instant::now() >= deadline {
                let how = stopped.map_or_else(String::new, |how| format!("it stopped: {how}; "));
                let log = fleet.logs(Service::Router, 10).await.join("\n    ");
                return Err(format!(
                    "the router did not start: {how}{error}; its last log lines:\n    {log}"
                ));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until both colors are healthy. Returns why the active one is not.
    async fn await_colors(&self, active: Color, started: [Started; 2]) -> Option<String> {
        let mut missing = None;
        for (color, started) in started {
            let healthy = match started {
                Ok(release) => self.await_healthy(color, &release).await,
                Err(error) => Err(error),
            };
            match healthy {
                Ok(()) => {}
                Err(error) if color == active => {
                    missing = Some(format!("{color} is active and not healthy: {error}"));
                }
                // `deployer monitor` handles a standby that is down.
                Err(error) => self.note(format!("{color} cannot stand in: {error}")),
            }
        }
        missing
    }

    /// Waits until the color is healthy. The error says why it is not.
    async fn await_healthy(&self, color: Color, release: &Release) -> Result<(), String> {
        let settings = &self.settings.health;
        let verdict = await_healthy(settings, self.ports, color, release, self.reporter).await;
        self.reporter.report(&Event::GateFinished {
            gate: color.name(),
            verdict: &verdict,
        });
        if verdict.lets_through() {
            Ok(())
        } else {
            Err(verdict.summary)
        }
    }

    /// Says what serves. Fails if something is missing for clients.
    async fn conclude(
        &self,
        active: Color,
        mut missing: Vec<String>,
    ) -> anyhow::Result<CommandOutput> {
        let url = &self.settings.router.url;
        let served = self.served_version().await;
        if missing.is_empty() {
            match served {
                Ok(_) => return Ok(CommandOutput::success(format!("up: {url} serves {active}"))),
                Err(error) => missing.push(format!("clients get no answer at {url}: {error}")),
            }
        } else {
            missing.push(match served {
                Ok(version) => format!("clients at {url} are answered by {version}"),
                Err(_) => format!("clients at {url} are not answered"),
            });
        }
        Err(anyhow!("not everything is up: {}", missing.join("; ")))
    }

    /// The version that answers clients. A container's address may take the router a second to find.
    async fn served_version(&self) -> Result<String, String> {
        let deadline = Instant::now() + self.settings.router.confirm_timeout;
        loop {
            match self.ports.probe.health(Target::Public).await {
                Ok(health) => {
                    let version = health.model_version;
                    return Ok(version.unwrap_or_else(|| "a release without a version".to_owned()));
                }
                Err(error) if Instant::now() >= deadline => return Err(error.to_string()),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
