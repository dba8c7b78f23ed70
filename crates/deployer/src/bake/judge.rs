//! Judges a candidate that has the traffic. Pure: observations and elapsed time are arguments.

mod counters;
mod error_rate;
pub mod hanging;
mod rises;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use crate::{
    bake::judge::{
        counters::Counters,
        error_rate::{judge_errors, needed_requests},
        rises::{can_compare, find_rise},
    },
    config::{BakeSettings, OnInconclusive},
    evidence::{
        details::Evidence,
        endings::Endings,
        latency::{ComparedTail, LatencyLimit},
        sample::{ENOUGH_LABELS, TrafficSample},
        statistics::{Drift, drift_of_labels},
        tally::Tally,
        verdict::{Conclusion, Verdict},
    },
    release::Health,
};

/// How many times an inconclusive end extends the bake.
const EXTENSIONS: u32 = 2;

/// One observation of the candidate.
#[derive(Debug, Default)]
pub struct Observation {
    /// When it was made, since the switch.
    pub at: Duration,
    /// What clients received from the candidate since the last observation.
    pub traffic: TrafficSample,
    /// The candidate's health, or why it is not healthy.
    pub health: Option<Result<Health, String>>,
    /// The result of a test request sent to the candidate itself.
    pub request: Option<Result<(), String>>,
    /// The results of the deployer's own requests since the last observation.
    pub own: Tally,
    /// How the candidate stopped, if the fleet says that it did.
    pub stopped: Option<String>,
    /// What could not be read. It counts neither for nor against the candidate.
    pub unread: Vec<String>,
}

/// Everything observed since the switch.
#[derive(Debug)]
pub struct Bake {
    settings: BakeSettings,
    before: TrafficSample,
    /// How many requests a verdict about the error rate needs.
    needed: u64,
    until: Duration,
    extensions: u32,
    observations: u32,
    last_observation: Duration,
    late_observations: u32,
    traffic: TrafficSample,
    own: Tally,
    /// What clients received within the last window, by observation.
    recent: VecDeque<(Duration, Tally, Endings)>,
    consecutive_failures: u32,
    last_failure: Option<String>,
    counters: Counters,
    stopped: Option<String>,
    unread: BTreeMap<String, u32>,
}

impl Bake {
    /// Starts a bake. `before` is what clients received from the active release before the switch.
    #[must_use]
    pub fn new(settings: BakeSettings, before: TrafficSample) -> Self {
        Self {
            until: settings.duration,
            needed: needed_requests(&settings),
            settings,
            before,
            extensions: 0,
            observations: 0,
            last_observation: Duration::ZERO,
            late_observations: 0,
            traffic: TrafficSample::default(),
            own: Tally::default(),
            recent: VecDeque::new(),
            consecutive_failures: 0,
            last_failure: None,
            counters: Counters::default(),
            stopped: None,
            unread: BTreeMap::new(),
        }
    }

    /// Returns how many requests are missing at this point of the bake for a verdict at its end.
    #[must_use]
    pub fn missing_requests(&self) -> usize {
        let observations = self.until.as_millis() / self.settings.interval.as_millis().max(1);
        let needed = self.needed * u64::from(1 + self.extensions);
        let each = u128::from(needed).div_ceil(observations.max(1));
        let due = (each * u128::from(self.observations)).min(u128::from(needed));
        let missing = due.saturating_sub(u128::from(self.traffic.tally.requests));
        // Bounded, so that own requests are not a load.
        let missing = missing.min(2 * each);
        usize::try_from(missing).unwrap_or(usize::MAX)
    }

    /// The requests for the candidate since the switch.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.traffic.tally
    }

    /// The duration of the bake, with its extensions so far.
    #[must_use]
    pub fn until(&self) -> Duration {
        self.until
    }

    /// Why the last observation failed, if it did.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Adds one observation.
    pub fn record(&mut self, observation: Observation) {
        self.observations += 1;
        let late = observation.at > self.last_observation + 2 * self.settings.interval;
        self.late_observations += u32::from(late);
        self.last_observation = observation.at;
        self.traffic.add(&observation.traffic);
        self.own.add(observation.own);
        self.recent.push_back((
            observation.at,
            observation.traffic.tally,
            observation.traffic.endings,
        ));
        while let Some((at, ..)) = self.recent.front()
            && *at + self.settings.window < observation.at
        {
            self.recent.pop_front();
        }
        for what in observation.unread {
            *self.unread.entry(what).or_default() += 1;
        }
        if let Some(Ok(health)) = &observation.health
            && let Some(sign) = self.counters.record(health)
        {
            self.stopped
                .get_or_insert_with(|| format!("{sign}, so it crashed and was started again"));
        }
        if let Some(how) = observation.stopped {
            self.stopped.get_or_insert(how);
        }
        let failure = match (observation.health, observation.request) {
            (Some(Err(reason)), _) => Some(format!("health check failed: {reason}")),
            (_, Some(Err(reason))) => Some(format!("test request failed: {reason}")),
            _ => None,
        };
        self.consecutive_failures = failure
            .as_ref()
            .map_or(0, |_| self.consecutive_failures + 1);
        self.last_failure = failure;
    }

    /// Returns the verdict if there is one: at the end of the bake, or a few observations later if a check
    /// fails there. An inconclusive end may extend the bake.
    pub fn verdict(&mut self, elapsed: Duration) -> Option<Verdict> {
        let verdict = self.assess(elapsed)?;
        let extend = verdict.conclusion == Conclusion::Inconclusive
            && self.settings.on_inconclusive == OnInconclusive::Extend
            && self.extensions < EXTENSIONS;
        if extend {
            self.extensions += 1;
            self.until += self.settings.duration;
            return None;
        }
        Some(self.with_details(verdict))
    }

    fn assess(&self, elapsed: Duration) -> Option<Verdict> {
        if let Some(how) = &self.stopped {
            return Some(Verdict::new(Conclusion::Fail, format!("it stopped: {how}")));
        }
        if self.consecutive_failures >= self.settings.failures {
            let last = self.last_failure.as_deref().unwrap_or_default();
            let summary = format!(
                "{} checks in a row failed, the last one: {last}",
                self.consecutive_failures
            );
            return Some(Verdict::new(Conclusion::Fail, summary));
        }
        let (in_window, endings_in_window) = self.last_window();
        let window = humantime::format_duration(self.settings.window);
        let readings = [
            (self.traffic.tally, String::new()),
            (in_window, format!("in the last {window}, ")),
            (
                self.counters.increase(self.own),
                "by its own counters, ".to_owned(),
            ),
        ];
        for (tally, source) in &readings {
            let verdict = judge_errors(&self.settings, *tally);
            if verdict.conclusion == Conclusion::Fail {
                return Some(Verdict {
                    summary: format!("{source}{}", verdict.summary),
                    ..verdict
                });
            }
        }
        let rises = |since| find_rise(&self.settings, &self.before.endings, since);
        if let Some(problem) = rises(&self.traffic.endings).or_else(|| rises(&endings_in_window)) {
            return Some(Verdict::new(Conclusion::Fail, problem));
        }
        // The first requests after a switch open connections and fill caches.
        if elapsed >= self.settings.duration / 2
            && let Some(problem) = self.slower().or_else(|| self.label_shift())
        {
            return Some(Verdict::new(Conclusion::Fail, problem));
        }
        // The next observations show whether a check that fails at the end continues to fail.
        if elapsed < self.until || self.consecutive_failures > 0 {
            return None;
        }
        let by_clients = judge_errors(&self.settings, self.traffic.tally);
        let by_itself = judge_errors(&self.settings, self.counters.increase(self.own));
        if self.traffic.tally.requests < self.settings.min_requests
            && by_itself.conclusion == Conclusion::Pass
        {
            return Some(Verdict {
                summary: format!("by its own counters alone, {}", by_itself.summary),
                ..by_itself
            });
        }
        Some(by_clients)
    }

    /// What clients received within the last window.
    fn last_window(&self) -> (Tally, Endings) {
        let (mut tally, mut endings) = (Tally::default(), Endings::default());
        for (_, of_observation, endings_of_observation) in &self.recent {
            tally.add(*of_observation);
            endings.add(endings_of_observation);
        }
        (tally, endings)
    }

    /// Compares how long clients wait with how long they waited before; `None` with too few requests.
    fn compare_tails(&self) -> Option<ComparedTail> {
        let limit = LatencyLimit {
            max_ratio: self.settings.max_ratio,
            negligible: self.settings.negligible,
        };
        limit.compare_tails(&self.traffic.latencies, &self.before.latencies)
    }

    /// Returns why clients wait longer than before, if they do.
    fn slower(&self) -> Option<String> {
        let compared = self.compare_tails()?;
        compared
            .exceeds
            .then(|| format!("clients wait longer: {compared}"))
    }

    /// The drift of the labels since before the switch; `None` with too few labels.
    fn label_drift(&self) -> Option<Drift> {
        let both = [&self.before, &self.traffic];
        both.iter()
            .all(|traffic| traffic.labels() >= ENOUGH_LABELS)
            .then(|| drift_of_labels(&self.before.labels, &self.traffic.labels))
    }

    /// Returns how the labels differ from those before the switch, if they do.
    fn label_shift(&self) -> Option<String> {
        let allowed = self.settings.max_label_drift;
        let drift = self.label_drift().filter(|drift| drift.exceeds(allowed))?;
        Some(format!(
            "the labels differ from those before the switch: {} instead of {} (population stability index {:.2}; at most {allowed} allowed, plus {:.2} for chance)",
            shares(&self.traffic.labels),
            shares(&self.before.labels),
            drift.index,
            drift.by_chance
        ))
    }

    /// Adds the latencies before and since the switch, or a warning that they were not compared.
    fn with_latency_details(&self, mut verdict: Verdict) -> Verdict {
        match self.compare_tails() {
            Some(compared) => {
                let [ours, theirs] = compared.names();
                verdict = verdict
                    .with(ours, compared.seconds)
                    .with(theirs, compared.active_seconds);
                if verdict.conclusion == Conclusion::Pass {
                    let _ = write!(verdict.summary, "; {compared}");
                }
            }
            None => verdict.warnings.push(format!(
                "latency was not compared: {} requests before the switch and {} since",
                self.before.latencies.count(),
                self.traffic.latencies.count()
            )),
        }
        verdict
    }

    /// Adds a warning if the ways in which requests ended were not compared.
    fn with_ending_details(&self, mut verdict: Verdict) -> Verdict {
        let both = [&self.before.endings, &self.traffic.endings];
        if !can_compare(&self.settings, both[0], both[1]) {
            let [before, since] = both.map(Endings::requests);
            verdict.warnings.push(format!(
                "refused and abandoned requests were not compared: clients sent {before} requests before the switch and {since} since, {} of each on one route are needed",
                self.settings.min_requests
            ));
        }
        verdict
    }

    /// Adds the drift of the labels, or a warning that they were not compared.
    fn with_label_details(&self, mut verdict: Verdict) -> Verdict {
        match self.label_drift() {
            Some(drift) => {
                verdict = verdict
                    .with("label_drift", drift.index)
                    .with("label_drift_by_chance", drift.by_chance);
            }
            None => verdict.warnings.push(format!(
                "labels were not compared: {} before the switch and {} since, {ENOUGH_LABELS} of each are needed",
                self.before.labels(),
                self.traffic.labels()
            )),
        }
        verdict
    }

    /// Adds to a verdict the figures and warnings that did not decide it.
    fn with_details(&self, mut verdict: Verdict) -> Verdict {
        let tally = self.traffic.tally;
        verdict = verdict
            .with("requests", tally.requests as f64)
            .with("failed", tally.failed as f64)
            .with("error_rate", tally.error_rate());
        verdict = self.with_ending_details(self.with_latency_details(verdict));
        verdict = self.with_label_details(verdict);
        if self.extensions > 0 {
            let times = if self.extensions == 1 {
                "once"
            } else {
                "twice"
            };
            let _ = write!(verdict.summary, "; the bake was extended {times}");
        }
        for (what, count) in &self.unread {
            verdict.warnings.push(format!(
                "not read at {count} of {} observations: {what}",
                self.observations
            ));
        }
        if self.late_observations > 0 {
            verdict.warnings.push(format!(
                "{} of {} observations came late: the candidate or this machine was slow to answer",
                self.late_observations, self.observations
            ));
        }
        verdict.with_evidence(Evidence {
            active_latency: Some(self.before.latencies.clone()),
            candidate_latency: Some(self.traffic.latencies.clone()),
            ..Evidence::default()
        })
    }
}

/// Formats each label with its share: "positive 62 %, negative 38 %".
fn shares(labels: &BTreeMap<String, u64>) -> String {
    let all: u64 = labels.values().sum();
    let mut labels: Vec<_> = labels.iter().collect();
    labels.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let shares = labels.iter().take(3).map(|(label, count)| {
        let share = 100.0 * **count as f64 / all as f64;
        format!("{label} {share:.0} %")
    });
    shares.collect::<Vec<_>>().join(", ")
}
