//! Does the candidate become healthy in time?

use async_trait::async_trait;

use super::{Candidate, Gate};
use crate::{
    config::HealthSettings,
    event::Event,
    ports::{Service, State, Target},
    verdict::{Finding, Verdict},
};

/// Asks for health until it is there, the tries are used up, or the candidate is gone.
#[derive(Debug)]
pub struct Healthy {
    settings: HealthSettings,
}

impl Healthy {
    /// So many tries, so far apart.
    #[must_use]
    pub fn new(settings: HealthSettings) -> Self {
        Self { settings }
    }
}

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
                .world
                .probe
                .health(Target::Server(candidate.color))
                .await;
            // Asked after the answer, which a stranger on the candidate's port may have given.
            if let Ok((State::Stopped(how), _)) = candidate.world.fleet.inspect(service).await {
                return failed_with_logs(candidate, format!("it stopped while starting: {how}"))
                    .await;
            }
            match answer {
                Ok(_) => {
                    return Verdict::new(
                        Finding::Pass,
                        format!("healthy at try {tried} of {tries}"),
                    )
                    .with("tries", f64::from(tried));
                }
                Err(error) => reason = error.to_string(),
            }
            candidate.reporter.report(&Event::Waiting {
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

/// The candidate's last words say more than any status code.
async fn failed_with_logs(candidate: &Candidate<'_>, mut summary: String) -> Verdict {
    let lines = candidate
        .world
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
    Verdict::new(Finding::Fail, summary)
}
