//! The status, and how it is read.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    color::Color,
    config::Settings,
    evidence::{request::Request, sample::TrafficSample},
    ports::{LogPart, Ports, Service, ServiceState, Target},
    release::Health,
    state::{journal_entries::DeploymentEntry, lock_holder::LockHolder, traffic_move::TrafficMove},
};

/// What clients received is shown for this many seconds.
const RECENT: f64 = 300.0;

/// The status; `--json` prints it as it is.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) router: String,
    /// The active color; `None` if the router does not say.
    pub(super) active: Option<Color>,
    /// What could not be read, as sentences.
    pub(super) problems: Vec<String>,
    pub(super) colors: [ColorStatus; 2],
    /// Whether `deployer rollback` would work now.
    pub(super) can_roll_back: bool,
    /// The holder of the lock.
    pub(super) lock_holder: Option<LockHolder>,
    pub(super) last_deployment: Option<DeploymentEntry>,
    /// A move of traffic that was begun and not finished.
    pub(super) traffic_move: Option<TrafficMove>,
}

/// What clients received from a color, from the router's log.
#[derive(Debug, Serialize)]
pub(super) struct Clients {
    /// The time that the figures cover: less than five minutes if the part of the log that was read is shorter.
    pub(super) recent_seconds: f64,
    pub(super) requests: u64,
    /// Requests that this color failed, also if the other color then answered.
    pub(super) failed: u64,
    /// `None` without a request.
    pub(super) p50_seconds: Option<f64>,
    pub(super) p99_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct ColorStatus {
    pub(super) color: Color,
    pub(super) url: String,
    /// Whether it may stand in for the other color; `None` if the flag cannot be read.
    pub(super) fit: Option<bool>,
    pub(super) healthy: bool,
    /// Whether it does not run, or is paused.
    pub(super) stopped: bool,
    /// Why it is not healthy, if it is not.
    pub(super) reason: Option<String>,
    /// What clients received; `None` if this machine cannot read the log.
    pub(super) clients: Option<Clients>,
    #[serde(flatten)]
    pub(super) health: Health,
}

/// Reads the status. What cannot be read is a problem of the status.
pub(super) async fn read_status(settings: &Settings, ports: &Ports) -> Status {
    let (active, blue, green) = tokio::join!(
        ports.router.active(),
        color_status(ports, settings, Color::Blue),
        color_status(ports, settings, Color::Green),
    );
    let mut problems = Vec::new();
    let active = active
        .map_err(|error| problems.push(format!("where traffic goes is not known: {error}")))
        .ok();
    let entries = ports.journal.read().await;
    let entries = entries.map_err(|error| problems.push(error.to_string()));
    let entries = entries.unwrap_or_default();
    let mut colors = [blue, green];
    let log = match &ports.request_log {
        Some(log) => Some(log.read(None).await),
        None => None,
    };
    match log {
        Some(Ok(LogPart {
            requests, problem, ..
        })) => {
            problems.extend(problem.map(|problem| problem.to_string()));
            let now = ports.clock.now();
            for status in &mut colors {
                status.clients = Some(clients(status.color, &requests, now));
            }
        }
        Some(Err(error)) => problems.push(error.to_string()),
        None => {}
    }
    Status {
        router: settings.router.url.clone(),
        can_roll_back: active.is_some_and(|active| {
            colors
                .iter()
                .any(|status| status.color != active && status.healthy && status.fit == Some(true))
        }),
        active,
        problems,
        colors,
        lock_holder: ports.lock.holder().await,
        last_deployment: entries.deployment,
        traffic_move: entries.traffic_move,
    }
}

/// What clients received in the last [`RECENT`] seconds before `now`.
fn clients(color: Color, requests: &[Request], now: Timestamp) -> Clients {
    let now = now.as_millisecond() as f64 / 1000.0;
    let read = requests.first().map_or(RECENT, |first| now - first.at);
    let recent = read.clamp(0.0, RECENT);
    let first = requests.partition_point(|request| request.at < now - recent);
    let sample = TrafficSample::of(color, &requests[first..]);
    let quantile = |at| (sample.waits.count() > 0).then(|| sample.waits.quantile(at).as_secs_f64());
    Clients {
        recent_seconds: recent,
        requests: sample.tally.requests,
        failed: sample.tally.failed,
        p50_seconds: quantile(0.5),
        p99_seconds: quantile(0.99),
    }
}

async fn color_status(ports: &Ports, settings: &Settings, color: Color) -> ColorStatus {
    let answer = ports.probe.health(Target::Server(color)).await;
    let mut status = ColorStatus {
        color,
        url: settings.color(color).url.clone(),
        fit: ports.flags.is_fit(color).await.ok(),
        healthy: answer.is_ok(),
        stopped: false,
        reason: None,
        clients: None,
        health: Health::default(),
    };
    match answer {
        Ok(health) => status.health = health,
        Err(error) => {
            let state = ports.fleet.inspect(Service::Server(color)).await;
            let how = match state {
                Ok((ServiceState::Stopped(how) | ServiceState::Paused(how), _)) => Some(how),
                Ok((ServiceState::Running | ServiceState::Unmanaged, _)) | Err(_) => None,
            };
            status.stopped = how.is_some();
            status.reason = Some(how.unwrap_or_else(|| error.to_string()));
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::request::answered_by;

    /// A request that ended at this time, in seconds since 1970.
    fn request(at: f64) -> Request {
        Request {
            at,
            ..answered_by(Color::Blue, 200)
        }
    }

    #[test]
    fn client_figures_cover_only_recent_requests() {
        let now = Timestamp::from_second(1000).unwrap();
        let figures = |at: &[f64]| {
            let requests: Vec<Request> = at.iter().copied().map(request).collect();
            let clients = clients(Color::Blue, &requests, now);
            (clients.requests, clients.recent_seconds)
        };
        assert_eq!(figures(&[10.0, 699.0, 701.0, 999.0]), (2, 300.0));
        assert_eq!(figures(&[880.0, 999.0]), (2, 120.0));
        assert_eq!(figures(&[]), (0, 300.0));
    }
}
