//! A simulated model server with an injected fault.

use std::time::Duration;

use deployer::{
    evidence::load::{LoadPlan, LoadResult},
    ports::{Activity, PortError, Prediction},
    release::Health,
};
use tokio::time::Instant;

/// How long a server loads before it is healthy. With the settings of these tests the second check passes.
const WARM_UP: Duration = Duration::from_secs(2);

/// The fault of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerFault {
    /// It has no fault.
    None,
    /// The fleet cannot fetch what it needs.
    CannotBePrepared,
    /// The fleet cannot start it.
    CannotStart,
    /// It is not running.
    Exited,
    /// It runs and answers every health check with 503.
    Unhealthy,
    /// It is healthy, and answers every prediction with 500.
    FailsPredictions,
    /// One in this many predictions fails.
    FailsOneIn(u64),
    /// Predictions through the router get 500; predictions from the deployer itself succeed.
    FailsClients,
    /// It answers nothing any more, and closes no connection.
    Hangs,
    /// It is healthy, and answers no prediction.
    HangsPredictions,
    /// It answers no prediction that comes through the router.
    HangsForClients,
    /// It answers each prediction, and counts every second one as failed.
    CountsFailures,
    /// It reports the version "stale" and the digest of that version.
    ReportsStaleVersion,
    /// It crashed and was restarted at the moment at which this fault began.
    Restarted,
    /// It predicts a wrong label for every input.
    PredictsWrongLabel,
    /// A prediction takes this many times as long.
    Slow(u32),
    /// Under load it answers every tenth request with 503.
    FailsUnderLoad,
    /// Under load it answers one request after 1 min.
    StallsUnderLoad,
    /// Under load it takes the processors from the other color, which then needs 2 s for a prediction.
    SlowsOtherUnderLoad,
}

/// How long a prediction takes without a fault.
const PREDICTION_LATENCY: Duration = Duration::from_millis(10);

/// A simulated model server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) version: String,
    pub(crate) fault: ServerFault,
    /// A fault that begins this long after the server received the traffic.
    pub(crate) later_fault: Option<(Duration, ServerFault)>,
    /// Whether its health response contains counters and uptime.
    pub(crate) reports_counters: bool,
    pub(crate) started: Instant,
    pub(crate) active_since: Option<Instant>,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// How long it loads before it is healthy.
    pub(crate) loads_for: Duration,
    /// What it shows this long after its start.
    pub(crate) activity: fn(Duration) -> Activity,
}

impl Server {
    pub(crate) fn good() -> Self {
        Self {
            version: String::new(),
            fault: ServerFault::None,
            later_fault: None,
            reports_counters: true,
            started: Instant::now(),
            active_since: None,
            requests: 0,
            failed: 0,
            loads_for: WARM_UP,
            activity: |_| Activity::default(),
        }
    }

    /// A server that has this fault from its start.
    pub(crate) fn with_fault(fault: ServerFault) -> Self {
        Self {
            fault,
            ..Self::good()
        }
    }

    /// A server that loads for this long, and shows this activity.
    pub(crate) fn loading_for(loads_for: Duration, activity: fn(Duration) -> Activity) -> Self {
        Self {
            loads_for,
            activity,
            ..Self::good()
        }
    }

    /// A server whose fault begins this many seconds after it received the traffic.
    pub(crate) fn with_fault_after(seconds: u64, fault: ServerFault) -> Self {
        Self {
            later_fault: Some((Duration::from_secs(seconds), fault)),
            ..Self::good()
        }
    }

    /// Returns this server with `version`, started now.
    pub(crate) fn started(&self, version: &str) -> Self {
        Self {
            version: version.to_owned(),
            started: Instant::now(),
            ..self.clone()
        }
    }

    pub(crate) fn current_fault(&self) -> ServerFault {
        match (self.later_fault, self.active_since) {
            (Some((after, fault)), Some(since)) if since.elapsed() >= after => fault,
            _ => self.fault,
        }
    }

    pub(crate) fn health(&self) -> Result<Health, PortError> {
        match self.current_fault() {
            ServerFault::Exited => {
                return Err(PortError::Unreachable("connection refused".to_owned()));
            }
            ServerFault::Unhealthy => return Err(refused(503, "answered 503")),
            _ if self.started.elapsed() < self.loads_for => {
                return Err(refused(503, "answered 503, loading"));
            }
            _ => {}
        }
        let version = match self.current_fault() {
            ServerFault::ReportsStaleVersion => "stale",
            _ => &self.version,
        };
        let health = Health {
            model_name: Some("sentiment".to_owned()),
            model_version: Some(version.to_owned()),
            model_digest: Some(digest(version)),
            ..Health::default()
        };
        Ok(if self.reports_counters {
            Health {
                uptime_seconds: Some(self.uptime().as_secs_f64()),
                request_count: Some(self.requests),
                error_count: Some(self.failed),
                ..health
            }
        } else {
            health
        })
    }

    /// Whether it never answers a health check.
    pub(crate) fn hangs_on_health(&self) -> bool {
        self.current_fault() == ServerFault::Hangs
    }

    /// Whether it never answers a prediction. `through_router` is whether the request came through the router.
    pub(crate) fn hangs_on_prediction(&self, through_router: bool) -> bool {
        match self.current_fault() {
            ServerFault::Hangs | ServerFault::HangsPredictions => true,
            ServerFault::HangsForClients => through_router,
            _ => false,
        }
    }

    fn uptime(&self) -> Duration {
        match (self.current_fault(), self.later_fault, self.active_since) {
            (ServerFault::Restarted, Some((after, _)), Some(since)) => {
                since.elapsed().saturating_sub(after)
            }
            _ => self.started.elapsed(),
        }
    }

    /// Answers one prediction. `through_router` is whether the request came through the router.
    pub(crate) fn predict(&mut self, through_router: bool) -> Result<Prediction, PortError> {
        if self.current_fault() == ServerFault::Exited {
            return Err(PortError::Unreachable("connection refused".to_owned()));
        }
        self.requests += 1;
        let fails = match self.current_fault() {
            ServerFault::FailsPredictions | ServerFault::Unhealthy => true,
            ServerFault::FailsOneIn(requests) => self.requests.is_multiple_of(requests),
            ServerFault::FailsClients => through_router,
            ServerFault::CountsFailures => {
                self.failed += self.requests % 2;
                false
            }
            _ => false,
        };
        self.failed += u64::from(fails);
        if fails {
            return Err(refused(500, "answered 500"));
        }
        let (label, factor) = match self.current_fault() {
            ServerFault::PredictsWrongLabel => ("bad", 1),
            ServerFault::Slow(factor) => ("good", factor),
            _ => ("good", 1),
        };
        Ok(Prediction {
            label: Some(label.to_owned()),
            confidence: Some(0.9),
            took: PREDICTION_LATENCY * factor,
            stream: None,
        })
    }

    /// Answers 1,000 requests of a load test.
    pub(crate) fn load(&self, plan: LoadPlan) -> LoadResult {
        let mut load = LoadResult {
            elapsed: plan.duration,
            in_time: 1_000,
            ..LoadResult::default()
        };
        for number in 0..1_000 {
            match self.current_fault() {
                ServerFault::FailsUnderLoad if number % 10 == 0 => load.failed("status 503"),
                ServerFault::StallsUnderLoad if number == 0 => {
                    load.answered(Duration::from_mins(1));
                }
                ServerFault::Slow(factor) => load.answered(PREDICTION_LATENCY * factor),
                _ => load.answered(PREDICTION_LATENCY),
            }
        }
        load
    }
}

/// The digest of the files of `version`.
pub(crate) fn digest(version: &str) -> String {
    format!("digest of {version}")
}

fn refused(status: u16, message: &str) -> PortError {
    PortError::Refused {
        status,
        message: message.to_owned(),
    }
}
