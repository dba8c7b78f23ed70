//! A model server that misbehaves as told.

use std::time::Duration;

use deployer::{
    evidence::load::{LoadPlan, LoadResult},
    ports::{PortError, Prediction},
    release::Health,
};
use tokio::time::Instant;

/// A server is healthy this long after its start: at the second try with the tests' settings.
const WARM_UP: Duration = Duration::from_secs(2);

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It is as it should be.
    Nothing,
    /// It cannot even be started.
    CannotStart,
    /// It is not running.
    Exited,
    /// It runs and answers every health check with 503.
    Unhealthy,
    /// It is healthy and answers every prediction with 500.
    PredictsNothing,
    /// One in so many predictions fails.
    FailsOneIn(u64),
    /// Clients get 500, the deployer does not.
    FailsClients,
    /// Its own counters rise by a failure with every second request, and nobody else sees it.
    CountsFailures,
    /// It reports another version.
    IsStale,
    /// It crashed and was started again when the trouble began.
    WasRestarted,
    /// It gives every input the wrong label.
    IsWrong,
    /// It takes this many times as long as it should.
    IsSlow(u32),
    /// Under load it answers 503.
    FailsUnderLoad,
    /// Under load it answers one request after a minute.
    StallsUnderLoad,
}

/// How long a prediction takes.
const TOOK: Duration = Duration::from_millis(10);

/// A model server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    pub(crate) version: String,
    pub(crate) trouble: Trouble,
    /// What goes wrong so long after it got the traffic.
    pub(crate) later: Option<(Duration, Trouble)>,
    /// Whether it tells how much it did and how long it is up.
    pub(crate) tells_counters: bool,
    pub(crate) started: Instant,
    pub(crate) active_since: Option<Instant>,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
}

impl Server {
    pub(crate) fn good() -> Self {
        Self {
            version: String::new(),
            trouble: Trouble::Nothing,
            later: None,
            tells_counters: true,
            started: Instant::now(),
            active_since: None,
            requests: 0,
            failed: 0,
        }
    }

    /// Has this trouble from its start.
    pub(crate) fn with(trouble: Trouble) -> Self {
        Self {
            trouble,
            ..Self::good()
        }
    }

    /// Has this trouble so many seconds after it got the traffic.
    pub(crate) fn later(seconds: u64, trouble: Trouble) -> Self {
        Self {
            later: Some((Duration::from_secs(seconds), trouble)),
            ..Self::good()
        }
    }

    /// Started just now.
    pub(crate) fn started(&self, version: &str) -> Self {
        Self {
            version: version.to_owned(),
            started: Instant::now(),
            ..self.clone()
        }
    }

    pub(crate) fn trouble(&self) -> Trouble {
        match (self.later, self.active_since) {
            (Some((after, trouble)), Some(since)) if since.elapsed() >= after => trouble,
            _ => self.trouble,
        }
    }

    pub(crate) fn health(&self) -> Result<Health, PortError> {
        match self.trouble() {
            Trouble::Exited => return Err(PortError::Unreachable("connection refused".to_owned())),
            Trouble::Unhealthy => return Err(refused(503, "answered 503")),
            _ if self.started.elapsed() < WARM_UP => {
                return Err(refused(503, "answered 503, loading"));
            }
            _ => {}
        }
        let version = match self.trouble() {
            Trouble::IsStale => "stale",
            _ => &self.version,
        };
        let health = Health {
            model_name: Some("sentiment".to_owned()),
            model_version: Some(version.to_owned()),
            model_digest: Some(digest(version)),
            ..Health::default()
        };
        Ok(if self.tells_counters {
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

    fn uptime(&self) -> Duration {
        match (self.trouble(), self.later, self.active_since) {
            (Trouble::WasRestarted, Some((after, _)), Some(since)) => {
                since.elapsed().saturating_sub(after)
            }
            _ => self.started.elapsed(),
        }
    }

    /// Answers one prediction; `client` tells whether it came through the router.
    pub(crate) fn predict(&mut self, client: bool) -> Result<Prediction, PortError> {
        if self.trouble() == Trouble::Exited {
            return Err(PortError::Unreachable("connection refused".to_owned()));
        }
        self.requests += 1;
        let fails = match self.trouble() {
            Trouble::PredictsNothing | Trouble::Unhealthy => true,
            Trouble::FailsOneIn(requests) => self.requests.is_multiple_of(requests),
            Trouble::FailsClients => client,
            Trouble::CountsFailures => {
                self.failed += self.requests % 2;
                false
            }
            _ => false,
        };
        self.failed += u64::from(fails);
        if fails {
            return Err(refused(500, "answered 500"));
        }
        let (label, slower) = match self.trouble() {
            Trouble::IsWrong => ("bad", 1),
            Trouble::IsSlow(slower) => ("good", slower),
            _ => ("good", 1),
        };
        Ok(Prediction {
            label: Some(label.to_owned()),
            confidence: Some(0.9),
            took: TOOK * slower,
        })
    }

    /// Answers as much load as it is given.
    pub(crate) fn load(&self, plan: LoadPlan) -> LoadResult {
        let mut load = LoadResult {
            elapsed: plan.duration,
            in_time: 1_000,
            ..LoadResult::default()
        };
        for number in 0..1_000 {
            match self.trouble() {
                Trouble::FailsUnderLoad if number % 10 == 0 => load.failed("status 503"),
                Trouble::StallsUnderLoad if number == 0 => load.answered(Duration::from_mins(1)),
                Trouble::IsSlow(slower) => load.answered(TOOK * slower),
                _ => load.answered(TOOK),
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
