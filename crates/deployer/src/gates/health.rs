//! The gate `health`: does the candidate become healthy while it makes progress?

mod loading;

use std::time::Duration;

use async_trait::async_trait;
use humantime::format_duration;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    config::HealthSettings,
    event::Event,
    evidence::verdict::{Conclusion, Verdict},
    gates::{
        gate::{Candidate, Gate},
        health::loading::{Loading, Sign},
    },
    ports::{ACTIVITY_LINES, Activity, PortError, Service, ServiceState, Target},
    release::Health,
};

/// Sends health checks until one passes, the candidate has stopped, or it makes no progress.
#[derive(Debug)]
pub struct Healthy {
    settings: HealthSettings,
}

impl Healthy {
    /// Creates the gate with these time limits.
    #[must_use]
    pub fn new(settings: HealthSettings) -> Self {
        Self { settings }
    }

    /// How long the fleet may take to tell a state.
    fn patience(&self) -> Duration {
        /// The fleet may be slower than the candidate.
        const LEAST: Duration = Duration::from_secs(2);

        self.settings.interval.max(LEAST)
    }
}

/// How long the fleet may take to tell what a candidate does.
const MAX_WAIT_FOR_ACTIVITY: Duration = Duration::from_secs(5);
/// After so many restarts a server is refused at once. One that waits for another service may end once or twice.
const MAX_RESTARTS: u64 = 3;

#[async_trait]
impl Gate for Healthy {
    fn name(&self) -> &'static str {
        "health"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let mut wait = Wait::new(self.settings.clone());
        loop {
            let answer = self.check(candidate).await;
            let error = match answer {
                Ok(Ok(_)) => return wait.passed(),
                Ok(Err(error)) => error,
                Err(how) => {
                    return failed_with_logs(
                        candidate,
                        format!("it stopped while starting: {how}"),
                    )
                    .await;
                }
            };
            let activity = candidate.ports.fleet.activity(candidate.color);
            let activity = timeout(MAX_WAIT_FOR_ACTIVITY, activity)
                .await
                .unwrap_or_default();
            if let Some(reason) = wait.observe(&activity, &error.to_string()) {
                return failed_with_logs(candidate, reason).await;
            }
            candidate.reporter.report(&wait.progress());
            sleep(wait.pause()).await;
        }
    }
}

impl Healthy {
    /// Sends one health check. The outer error says how the candidate stopped.
    async fn check(&self, candidate: &Candidate<'_>) -> Result<Result<Health, PortError>, String> {
        let target = Target::Server(candidate.color);
        let answer = candidate.ports.probe.health(target).await;
        // After the answer, which another process on the candidate's port may have given.
        let inspection = candidate
            .ports
            .fleet
            .inspect(Service::Server(candidate.color));
        match timeout(self.patience(), inspection).await {
            Ok(Ok((ServiceState::Stopped(how) | ServiceState::Paused(how), _))) => Err(how),
            Ok(Ok((ServiceState::Running | ServiceState::Unmanaged, _)) | Err(_)) | Err(_) => {
                Ok(answer)
            }
        }
    }
}

/// The wait for a candidate, from the first health check on.
struct Wait {
    settings: HealthSettings,
    loading: Loading,
    checks: u32,
    began: Instant,
    progressed: Instant,
    sign: Option<Sign>,
    /// Why the last health check failed.
    reason: String,
    last_line: Option<String>,
}

impl Wait {
    fn new(settings: HealthSettings) -> Self {
        let now = Instant::now();
        Self {
            settings,
            loading: Loading::default(),
            checks: 0,
            began: now,
            progressed: now,
            sign: None,
            reason: String::new(),
            last_line: None,
        }
    }

    /// Adds a failed health check. Returns why the candidate is given up, if it is.
    fn observe(&mut self, activity: &Activity, reason: &str) -> Option<String> {
        let HealthSettings {
            stall, deadline, ..
        } = self.settings;
        self.checks += 1;
        reason.clone_into(&mut self.reason);
        let activity = without_checks(activity);
        if let Some(line) = activity.log.iter().rev().find_map(|line| readable(line)) {
            self.last_line = Some(line);
        }
        if let Some(sign) = self.loading.observe(&activity, reason) {
            self.sign = Some(sign);
            self.progressed = Instant::now();
        }
        let restarted = self.loading.restarted();
        let waited = format_duration(whole_seconds(self.began.elapsed()));
        if restarted >= MAX_RESTARTS {
            return Some(format!(
                "it ended and was started again {restarted} times within {waited}: {reason}"
            ));
        }
        if self.progressed.elapsed() >= stall {
            return Some(format!(
                "not healthy after {waited}, and no progress for {} (health.stall): {reason}",
                format_duration(stall)
            ));
        }
        (self.began.elapsed() >= deadline).then(|| {
            let sign = self
                .sign
                .map_or_else(String::new, |sign| format!(", although {sign}"));
            format!(
                "not healthy within {} (health.deadline){sign}: {reason}",
                format_duration(deadline)
            )
        })
    }

    fn passed(&self) -> Verdict {
        let checks = self.checks + 1;
        let seconds = self.began.elapsed().as_secs_f64();
        Verdict::new(
            Conclusion::Pass,
            format!("healthy after {seconds:.1} s, at check {checks}"),
        )
        .with("checks", f64::from(checks))
        .with("seconds", seconds)
    }

    fn progress(&self) -> Event<'static> {
        Event::AwaitingHealth {
            elapsed: self.began.elapsed(),
            without_progress: self.progressed.elapsed(),
            stall: self.settings.stall,
            reason: self.reason.clone(),
            last_line: self.last_line.clone(),
        }
    }

    /// The time until the next check, which is no later than the end of the wait.
    fn pause(&self) -> Duration {
        let HealthSettings {
            interval,
            stall,
            deadline,
        } = self.settings;
        let until_stall = stall.saturating_sub(self.progressed.elapsed());
        let until_deadline = deadline.saturating_sub(self.began.elapsed());
        interval.min(until_stall).min(until_deadline)
    }
}

fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs())
}

/// A log line as a terminal may show it: the last thing that a progress bar wrote, without control characters, and not
/// longer than a line. `None` if nothing is left.
fn readable(line: &str) -> Option<String> {
    const MAX_CHARACTERS: usize = 160;

    let last = line
        .split('\r')
        .rev()
        .find(|part| !part.trim().is_empty())?;
    let mut shown = String::new();
    let mut characters = last.trim().chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            // Such as "\x1b[32m".
            let _ = characters.by_ref().skip(1).find(char::is_ascii_alphabetic);
        } else if !character.is_control() {
            shown.push(character);
        }
    }
    if let Some((end, _)) = shown.char_indices().nth(MAX_CHARACTERS) {
        shown.truncate(end);
        shown.push_str(" ...");
    }
    (!shown.is_empty()).then_some(shown)
}

/// Whether a server logged that it answered a request for a page, such as a health check. While it loads, there are no others.
fn is_of_a_check(line: &str) -> bool {
    let mut words = line.split(|character: char| !character.is_alphanumeric());
    words.any(|word| word == "GET" || word == "HEAD")
}

/// The activity without the log lines that health checks cause.
fn without_checks(activity: &Activity) -> Activity {
    let lines = activity.log.iter().filter(|line| !is_of_a_check(line));
    Activity {
        log: lines.cloned().collect(),
        ..activity.clone()
    }
}

/// The candidate's last log lines say more than a status code.
async fn failed_with_logs(candidate: &Candidate<'_>, mut summary: String) -> Verdict {
    const LINES: usize = 10;

    let service = Service::Server(candidate.color);
    let all = candidate.ports.fleet.logs(service, ACTIVITY_LINES).await;
    let mut lines: Vec<&String> = all.iter().filter(|line| !is_of_a_check(line)).collect();
    if lines.is_empty() {
        lines = all.iter().collect();
    }
    if !lines.is_empty() {
        summary.push_str("; its last log lines:");
        for line in &lines[lines.len().saturating_sub(LINES)..] {
            summary.push_str("\n    ");
            summary.push_str(line);
        }
    }
    Verdict::new(Conclusion::Fail, summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_line_is_shown_without_control_characters() {
        let shown = |line| readable(line);
        assert_eq!(
            shown(" 10%|#   |\r 20%|##  |\r").as_deref(),
            Some("20%|##  |")
        );
        assert_eq!(
            shown("\x1b[32mINFO\x1b[0m: loads\x07").as_deref(),
            Some("INFO: loads")
        );
        assert_eq!(shown(" \r "), None);
        assert!(is_of_a_check(
            r#"INFO: 127.0.0.1:5012 - "GET /health HTTP/1.1" 503"#
        ));
        assert!(!is_of_a_check("loading the tokenizer"));
        let long = "ä".repeat(1_000);
        assert_eq!(shown(&long).map(|line| line.chars().count()), Some(164));
    }
}
