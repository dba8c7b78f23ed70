//! The gate `health`: does the candidate become healthy in time?

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::timeout;

use crate::{
    config::HealthSettings,
    event::Event,
    evidence::verdict::{Conclusion, Verdict},
    gates::gate::{Candidate, Gate},
    ports::{Service, ServiceState, Target},
};

/// Sends health checks until one passes, the tries are used up, or the candidate has stopped.
#[derive(Debug)]
pub struct Healthy {
    settings: HealthSettings,
}

impl Healthy {
    /// Creates the gate with this number of tries and this interval.
    #[must_use]
    pub fn new(settings: HealthSettings) -> Self {
        Self { settings }
    }
}

/// How long the fleet has at least to answer, which may be slower than the candidate.
const LEAST_PATIENCE: Duration = Duration::from_secs(2);

#[async_trait]
impl Gate for Healthy {
    fn name(&self) -> &'static str {
        "health"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let HealthSettings { tries, interval } = self.settings;
        let service = Service::Server(candidate.color);
        let mut reason = String::new();
        for tried in 1..=tries {
            let answer = candidate
                .ports
                .probe
                .health(Target::Server(candidate.color))
                .await;
            // After the answer, which another process on the candidate's port may have given.
            let inspection = candidate.ports.fleet.inspect(service);
            if let Ok(Ok((ServiceState::Stopped(how) | ServiceState::Paused(how), _))) =
                timeout(interval.max(LEAST_PATIENCE), inspection).await
            {
                return failed_with_logs(candidate, format!("it stopped while starting: {how}"))
                    .await;
            }
            match answer {
                Ok(_) => {
                    return Verdict::new(
                        Conclusion::Pass,
                        format!("healthy at try {tried} of {tries}"),
                    )
                    .with("tries", f64::from(tried));
                }
                Err(error) => reason = error.to_string(),
            }
            candidate.reporter.report(&Event::AwaitingHealth {
                tried,
                of: tries,
                reason: reason.clone(),
            });
            if tried < tries {
                tokio::time::sleep(interval).await;
            }
        }
        let interval = humantime::format_duration(interval);
        failed_with_logs(
            candidate,
            format!("not healthy after {tries} tries, {interval} apart: {reason}"),
        )
        .await
    }
}

/// The candidate's last log lines say more than a status code.
async fn failed_with_logs(candidate: &Candidate<'_>, mut summary: String) -> Verdict {
    let lines = candidate
        .ports
        .fleet
        .logs(Service::Server(candidate.color), 10)
        .await;
    if !lines.is_empty() {
        summary.push_str("; its last log lines:");
        for line in lines {
            summary.push_str("\n    ");
            summary.push_str(&line);
        }
    }
    Verdict::new(Conclusion::Fail, summary)
}
