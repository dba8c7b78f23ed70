//! The status, and how it is read.

use jiff::Timestamp;
use serde::Serialize;

use crate::{
    color::Color,
    config::Settings,
    evidence::{ending_counts::EndingCounts, request::Request, sample::TrafficSample},
    ports::{LogPart, Ports, RouterStatus, Service, ServiceState, Target},
    promoted::Differences,
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
    /// Each of several routers; empty if there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) routers: Vec<RouterStatus>,
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
    /// How all of them ended.
    pub(super) endings: EndingCounts,
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
    /// How the deployer's own requests ended in the same time; `None` without the log.
    pub(super) own_endings: Option<EndingCounts>,
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
    let routers = ports.router.routers().await.unwrap_or_else(|error| {
        problems.push(format!("the routers are not known: {error}"));
        Vec::new()
    });
    let active = active
        .map_err(|error| problems.push(format!("where traffic goes is not known: {error}")))
        .ok();
    let entries = ports.journal.read().await;
    let entries = entries.map_err(|error| problems.push(error.to_string()));
    let entries = entries.unwrap_or_default();
    let history = ports.journal.read_history().await.unwrap_or_default();
    let mut colors = [blue, green];
    for status in &colors {
        let health = status.healthy.then_some(&status.health);
        let differences = Differences::find(settings, ports, status.color, health).await;
        problems.extend(differences.into_sentences());
    }
    let log = match &ports.request_log {
        Some(log) => Some(log.read(None).await),
        None => None,
    };
    match log {
        Some(Ok(LogPart {
            requests,
            problem,
            missing,
            ..
        })) => {
            let unread = [problem, missing].into_iter().flatten();
            problems.extend(unread.map(|problem| problem.to_string()));
            let now = ports.clock.now();
            for status in &mut colors {
                let (clients, own_endings) = recent(status.color, &requests, now);
                status.clients = Some(clients);
                status.own_endings = Some(own_endings);
            }
        }
        Some(Err(error)) => problems.push(error.to_string()),
        None => {}
    }
    let lock_holder = ports.lock.holder().await;
    let mut last_deployment = entries.deployment.clone();
    if let Some(last) = &mut last_deployment {
        // The deployer that asked may have been killed.
        last.waiting
            .take_if(|waiting| !waiting.is_live(lock_holder.as_ref()));
    }
    Status {
        router: settings.router.url.clone(),
        can_roll_back: active.is_some_and(|active| {
            colors.iter().any(|status| {
                status.color != active
                    && status.healthy
                    && status.fit == Some(true)
                    && !entries.nothing_to_roll_back(
                        &history.entries,
                        active,
                        status.health.model_version.as_deref(),
                    )
            })
        }),
        active,
        problems,
        colors,
        routers,
        lock_holder,
        last_deployment,
        traffic_move: entries.traffic_move,
    }
}

/// What clients received in the last [`RECENT`] seconds before `now`, and how the deployer's own requests ended.
fn recent(color: Color, requests: &[Request], now: Timestamp) -> (Clients, EndingCounts) {
    let now = now.as_millisecond() as f64 / 1000.0;
    let read = requests.first().map_or(RECENT, |first| now - first.at);
    let recent_seconds = read.clamp(0.0, RECENT);
    let first = requests.partition_point(|request| request.at < now - recent_seconds);
    let recent = &requests[first..];
    let (mut endings, mut own_endings) = (EndingCounts::default(), EndingCounts::default());
    let mut failed = 0;
    for request in recent {
        let Some(ending) = request.ending_for(color) else {
            continue;
        };
        if request.by_deployer {
            own_endings.count(ending);
        } else {
            endings.count(ending);
            failed += u64::from(ending.is_good(false) == Some(false));
        }
    }
    let waits = TrafficSample::of(color, recent).waits;
    let quantile = |at| (waits.count() > 0).then(|| waits.quantile(at).as_secs_f64());
    let clients = Clients {
        recent_seconds,
        requests: endings.total(),
        failed,
        endings,
        p50_seconds: quantile(0.5),
        p99_seconds: quantile(0.99),
    };
    (clients, own_endings)
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
        own_endings: None,
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
            let (clients, _) = recent(Color::Blue, &requests, now);
            (clients.requests, clients.recent_seconds)
        };
        assert_eq!(figures(&[10.0, 699.0, 701.0, 999.0]), (2, 300.0));
        assert_eq!(figures(&[880.0, 999.0]), (2, 120.0));
        assert_eq!(figures(&[]), (0, 300.0));
    }
    #[test]
    fn status_counts_clients_by_ending_and_own_requests_apart() {
        let now = Timestamp::from_second(1000).unwrap();
        let with_status = |status| Request {
            at: 999.0,
            ..answered_by(Color::Blue, status)
        };
        let mut gave_up = with_status(499);
        gave_up.attempts[0].status = None;
        let own = Request {
            by_deployer: true,
            ..gave_up.clone()
        };
        let of_green = Request {
            at: 999.0,
            ..answered_by(Color::Green, 200)
        };
        let requests = [
            with_status(200),
            with_status(500),
            gave_up.clone(),
            gave_up,
            own,
            of_green,
        ];
        let (clients, own_endings) = recent(Color::Blue, &requests, now);
        assert_eq!(
            clients.endings.to_string(),
            "1 answered, 1 failed, 2 gave up"
        );
        assert_eq!((clients.requests, clients.failed), (4, 1));
        assert_eq!(own_endings.to_string(), "1 gave up");
    }
}
