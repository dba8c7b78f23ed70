//! Judges a candidate that has the traffic. Pure: it is told what was seen and how long it took.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    time::Duration,
};

use crate::{
    config::{OnInconclusive, WatchSettings},
    evidence::Evidence,
    latency::LatencyLimit,
    release::Health,
    statistics::{Drift, Z_99, drift_of_labels, requests_to_pass, wilson},
    traffic::{ENOUGH_LABELS, Seen},
    verdict::{Finding, Tally, Verdict},
};

/// A candidate is promoted only when an error rate of so many times the allowed one can be ruled
/// out.
const RULED_OUT: f64 = 3.0;
/// How often an open question extends the watch.
const EXTENSIONS: u32 = 2;

/// What one look at the candidate showed.
#[derive(Debug, Default)]
pub struct Look {
    /// When, since the switch.
    pub at: Duration,
    /// What clients saw of the candidate since the last look.
    pub traffic: Seen,
    /// The candidate's health, or why it is not healthy.
    pub health: Option<Result<Health, String>>,
    /// A test request sent straight to the candidate: why it failed, if it did.
    pub request: Option<Result<(), String>>,
    /// What came of the deployer's own requests since the last look.
    pub own: Tally,
    /// How the candidate stopped, if the fleet says that it did.
    pub stopped: Option<String>,
    /// What could not be looked at: neither good news nor bad.
    pub unread: Vec<String>,
}

/// Everything that was seen since the switch.
#[derive(Debug)]
pub struct Watch {
    settings: WatchSettings,
    before: Seen,
    /// How many requests it takes to judge the error rate.
    needed: u64,
    until: Duration,
    extensions: u32,
    looks: u32,
    last_look: Duration,
    late_looks: u32,
    seen: Seen,
    own: Tally,
    recent: VecDeque<(Duration, Tally)>,
    failures_in_a_row: u32,
    last_failure: Option<String>,
    counters: Option<Counters>,
    uptime_seconds: Option<f64>,
    stopped: Option<String>,
    unread: BTreeMap<String, u32>,
}

/// The candidate's own counters: what they were first, and what they are now.
#[derive(Debug, Clone, Copy)]
struct Counters {
    first: Tally,
    now: Tally,
}

impl Watch {
    /// Nothing was seen yet; `before` is what clients saw of the active release before the switch.
    #[must_use]
    pub fn new(settings: WatchSettings, before: Seen) -> Self {
        Self {
            until: settings.duration,
            needed: needed_requests(&settings),
            settings,
            before,
            extensions: 0,
            looks: 0,
            last_look: Duration::ZERO,
            late_looks: 0,
            seen: Seen::default(),
            own: Tally::default(),
            recent: VecDeque::new(),
            failures_in_a_row: 0,
            last_failure: None,
            counters: None,
            uptime_seconds: None,
            stopped: None,
            unread: BTreeMap::new(),
        }
    }

    /// How many requests traffic is behind what a judgment at the end will need.
    #[must_use]
    pub fn missing_requests(&self) -> usize {
        let looks = self.until.as_millis() / self.settings.interval.as_millis().max(1);
        let needed = self.needed * u64::from(1 + self.extensions);
        let each = u128::from(needed).div_ceil(looks.max(1));
        let due = (each * u128::from(self.looks)).min(u128::from(needed));
        let missing = due.saturating_sub(u128::from(self.seen.tally.requests));
        // Never so many at once that asking becomes a load of its own.
        let missing = missing.min(2 * each);
        usize::try_from(missing).unwrap_or(usize::MAX)
    }

    /// Client requests that wanted the candidate.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.seen.tally
    }

    /// How long it is watched in all, as things stand.
    #[must_use]
    pub fn until(&self) -> Duration {
        self.until
    }

    /// Why the last look failed, if it did.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Takes note of one look.
    pub fn see(&mut self, look: Look) {
        self.looks += 1;
        let late = look.at > self.last_look + 2 * self.settings.interval;
        self.late_looks += u32::from(late);
        self.last_look = look.at;
        self.seen.add(&look.traffic);
        self.own.add(look.own);
        self.recent.push_back((look.at, look.traffic.tally));
        while let Some((at, _)) = self.recent.front()
            && *at + self.settings.window < look.at
        {
            self.recent.pop_front();
        }
        for what in look.unread {
            *self.unread.entry(what).or_default() += 1;
        }
        if let Some(Ok(health)) = &look.health {
            self.read_counters(health);
        }
        if let Some(how) = look.stopped {
            self.stopped.get_or_insert(how);
        }
        let failure = match (look.health, look.request) {
            (Some(Err(reason)), _) => Some(format!("health check failed: {reason}")),
            (_, Some(Err(reason))) => Some(format!("test request failed: {reason}")),
            _ => None,
        };
        self.failures_in_a_row = failure.as_ref().map_or(0, |_| self.failures_in_a_row + 1);
        self.last_failure = failure;
    }

    /// The verdict, as soon as there is one: at the end, or after the few looks more that it takes
    /// to see whether a check that fails there goes on failing. An open question may put off the
    /// end.
    pub fn verdict(&mut self, elapsed: Duration) -> Option<Verdict> {
        let verdict = self.assess(elapsed)?;
        let extend = verdict.finding == Finding::Inconclusive
            && self.settings.on_inconclusive == OnInconclusive::Extend
            && self.extensions < EXTENSIONS;
        if extend {
            self.extensions += 1;
            self.until += self.settings.duration;
            return None;
        }
        Some(self.with_everything_seen(verdict))
    }

    fn assess(&self, elapsed: Duration) -> Option<Verdict> {
        if let Some(how) = &self.stopped {
            return Some(Verdict::new(Finding::Fail, format!("it stopped: {how}")));
        }
        if self.failures_in_a_row >= self.settings.failures {
            let last = self.last_failure.as_deref().unwrap_or_default();
            let summary = format!(
                "{} checks in a row failed, the last one: {last}",
                self.failures_in_a_row
            );
            return Some(Verdict::new(Finding::Fail, summary));
        }
        let mut lately = Tally::default();
        for (_, tally) in &self.recent {
            lately.add(*tally);
        }
        let window = humantime::format_duration(self.settings.window);
        let readings = [
            (self.seen.tally, String::new()),
            (lately, format!("in the last {window}, ")),
            (self.counted(), "by its own counters, ".to_owned()),
        ];
        for (tally, whence) in &readings {
            let verdict = self.judge_errors(*tally);
            if verdict.finding == Finding::Fail {
                return Some(Verdict {
                    summary: format!("{whence}{}", verdict.summary),
                    ..verdict
                });
            }
        }
        // The first requests after a switch open connections and fill caches.
        if elapsed >= self.settings.duration / 2
            && let Some(problem) = self.slower().or_else(|| self.answers_otherwise())
        {
            return Some(Verdict::new(Finding::Fail, problem));
        }
        // A failed check at the end is a question that the next few looks answer.
        if elapsed < self.until || self.failures_in_a_row > 0 {
            return None;
        }
        let by_clients = self.judge_errors(self.seen.tally);
        let by_itself = self.judge_errors(self.counted());
        if self.seen.tally.requests < self.settings.min_requests
            && by_itself.finding == Finding::Pass
        {
            return Some(Verdict {
                summary: format!("by its own counters alone, {}", by_itself.summary),
                ..by_itself
            });
        }
        Some(by_clients)
    }

    /// Judges an error rate by what it may be in truth: it fails when that is above the limit for
    /// certain, and passes when it seems to be within the limit and cannot be far above it.
    fn judge_errors(&self, tally: Tally) -> Verdict {
        let WatchSettings {
            max_error_rate: limit,
            min_requests,
            ..
        } = self.settings;
        let mut verdict = tally.judge(limit, min_requests);
        if tally.requests < min_requests {
            return verdict;
        }
        let truth = wilson(tally, Z_99);
        let ruled_out = truth.high < RULED_OUT * limit || tally.failed == 0 && limit <= 0.0;
        if truth.low > limit {
            verdict.finding = Finding::Fail;
        } else if verdict.finding == Finding::Pass && !ruled_out {
            verdict.finding = Finding::Inconclusive;
            let _ = write!(
                verdict.summary,
                ", too few to rule out {:.1} %",
                RULED_OUT * limit * 100.0
            );
        } else if verdict.finding == Finding::Fail {
            verdict.finding = Finding::Inconclusive;
            verdict.summary.push_str(", which may be chance");
        }
        verdict
            .with("error_rate_low", truth.low)
            .with("error_rate_high", truth.high)
    }

    fn limit(&self) -> LatencyLimit {
        LatencyLimit {
            max_ratio: self.settings.max_ratio,
            negligible: self.settings.negligible,
        }
    }

    /// Says so when clients wait for longer than before.
    fn slower(&self) -> Option<String> {
        let compared = self
            .limit()
            .compare_tails(&self.seen.latencies, &self.before.latencies)?;
        compared
            .exceeds
            .then(|| format!("clients wait for longer: {compared}"))
    }

    /// How far the labels lie from those before; none where there are too few.
    fn label_drift(&self) -> Option<Drift> {
        let both = [&self.before, &self.seen];
        both.iter()
            .all(|seen| seen.labels() >= ENOUGH_LABELS)
            .then(|| drift_of_labels(&self.before.labels, &self.seen.labels))
    }

    /// Says so when clients are given other labels than before.
    fn answers_otherwise(&self) -> Option<String> {
        let allowed = self.settings.max_label_drift;
        let drift = self.label_drift().filter(|drift| drift.exceeds(allowed))?;
        Some(format!(
            "clients are given other labels than before the switch: {} instead of {} (population stability index {:.2}, at most {allowed} allowed, and {:.2} for chance)",
            shares(&self.seen.labels),
            shares(&self.before.labels),
            drift.index,
            drift.by_chance
        ))
    }

    /// Adds to a verdict what was seen beside its reason.
    fn with_everything_seen(&self, mut verdict: Verdict) -> Verdict {
        let tally = self.seen.tally;
        verdict = verdict
            .with("requests", tally.requests as f64)
            .with("failed", tally.failed as f64)
            .with("error_rate", tally.error_rate());
        match self
            .limit()
            .compare_tails(&self.seen.latencies, &self.before.latencies)
        {
            Some(compared) => {
                let [ours, theirs] = compared.names();
                verdict = verdict
                    .with(ours, compared.seconds)
                    .with(theirs, compared.active_seconds);
                if verdict.finding == Finding::Pass {
                    let _ = write!(verdict.summary, "; {compared}");
                }
            }
            None => verdict.warnings.push(format!(
                "latency was not compared: {} requests before the switch and {} since",
                self.before.latencies.count(),
                self.seen.latencies.count()
            )),
        }
        match self.label_drift() {
            Some(drift) => {
                verdict = verdict
                    .with("label_drift", drift.index)
                    .with("label_drift_by_chance", drift.by_chance);
            }
            None => verdict.warnings.push(format!(
                "labels were not compared: {} before the switch and {} since, {ENOUGH_LABELS} of each are needed",
                self.before.labels(),
                self.seen.labels()
            )),
        }
        if self.extensions > 0 {
            let times = if self.extensions == 1 {
                "once"
            } else {
                "twice"
            };
            let _ = write!(verdict.summary, "; the watch was extended {times}");
        }
        for (what, count) in &self.unread {
            verdict.warnings.push(format!(
                "not read at {count} of {} looks: {what}",
                self.looks
            ));
        }
        if self.late_looks > 0 {
            verdict.warnings.push(format!(
                "{} of {} looks came late: the candidate or this machine was slow to answer",
                self.late_looks, self.looks
            ));
        }
        verdict.resting_on(Evidence {
            active_latency: Some(self.before.latencies.clone()),
            candidate_latency: Some(self.seen.latencies.clone()),
            ..Evidence::default()
        })
    }

    /// What the candidate's own counters rose by since the first look: their lifetime value would
    /// dilute what happens now with the test requests that came before. The deployer's own requests that
    /// went well are left out, since alone they would prove a release that no client has tried.
    fn counted(&self) -> Tally {
        self.counters.map_or_else(Tally::default, |counters| {
            let requests = counters
                .now
                .requests
                .saturating_sub(counters.first.requests);
            let failed = counters
                .now
                .failed
                .saturating_sub(counters.first.failed)
                .min(requests);
            let own = self.own.requests - self.own.failed;
            Tally {
                requests: requests.saturating_sub(own).max(failed),
                failed,
            }
        })
    }

    fn read_counters(&mut self, health: &Health) {
        if let Some(now) = health.uptime_seconds {
            if let Some(before) = self.uptime_seconds.filter(|before| now < *before) {
                self.started_again(&format!("its uptime fell from {before:.0} s to {now:.0} s"));
            }
            self.uptime_seconds = Some(now);
        }
        if let (Some(requests), Some(failed)) = (health.request_count, health.error_count) {
            let now = Tally { requests, failed };
            // The only sign of it where the uptime is not told.
            if let Some(Counters { now: before, .. }) = self.counters
                && (now.requests < before.requests || now.failed < before.failed)
            {
                self.started_again(&format!(
                    "its own counters fell from {} requests and {} failures to {} and {}",
                    before.requests, before.failed, now.requests, now.failed
                ));
            }
            let first = self.counters.map_or(now, |counters| counters.first);
            self.counters = Some(Counters { first, now });
        }
    }

    fn started_again(&mut self, sign: &str) {
        self.stopped
            .get_or_insert_with(|| format!("{sign}, so it crashed and was started again"));
    }
}

/// How many requests it takes that a release which fails half as often as it may is promoted in 99 of 100
/// cases.
fn needed_requests(settings: &WatchSettings) -> u64 {
    let (limit, least) = (settings.max_error_rate, settings.min_requests);
    // Where not a single failure is allowed, no number of requests rules them out.
    if limit <= 0.0 {
        return least;
    }
    requests_to_pass(least, limit / 2.0, |tally| {
        tally.error_rate() <= limit && wilson(tally, Z_99).high < RULED_OUT * limit
    })
}

/// Each label with its share: "positive 62 %, negative 38 %".
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

#[cfg(test)]
mod tests;
