//! Judges a candidate that has the traffic. Pure: observations and elapsed time are arguments.

mod budget;
mod comparisons;
mod counters;
mod details;
mod early;
mod error_rate;
mod hanging;
pub(super) mod liveness;
mod previous;
mod rises;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::{
    bake::judge::{
        budget::ErrorBudget,
        comparisons::{hang_timeout, latency_limit},
        error_rate::{judge_errors, needed_requests},
        hanging::Hanging,
        liveness::Liveness,
        previous::{PreviousComparison, PreviousRelease, Regression},
        rises::Rises,
    },
    config::{BakeSettings, OnInconclusive},
    evidence::{
        request::Request,
        sample::TrafficSample,
        tally::Tally,
        verdict::{Conclusion, Verdict},
    },
    release::Health,
};

/// How many times an inconclusive end extends the bake.
const EXTENSIONS: u32 = 2;

/// How long after its end a bake still waits for what the previous release answers.
const MAX_QUESTIONS: Duration = Duration::from_secs(30);

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
    /// How many requests the router worked on, and when, in seconds since 1970.
    pub in_flight: Option<(f64, u64)>,
    /// When each request of any color began and ended that was logged since; `None` if the log was not read.
    pub ended: Option<Vec<(f64, f64)>>,
    /// Requests of clients since the last observation, while the previous release is asked.
    pub originals: Vec<Request>,
    /// What the previous release answered to copies of them.
    pub copies: Vec<Request>,
    /// The results of the deployer's own requests since the last observation.
    pub own: Tally,
    /// How the candidate stopped, if the fleet says that it did.
    pub stopped: Option<String>,
    /// What could not be read. It counts neither for nor against the candidate.
    pub unread: Vec<String>,
    /// Which router's requests are missing so far, and why.
    pub missing: Option<String>,
}

/// Everything observed since the switch.
#[derive(Debug)]
pub struct Bake {
    settings: BakeSettings,
    before: TrafficSample,
    /// The path of predictions.
    predict_path: String,
    budget: ErrorBudget,
    previous: PreviousRelease,
    hanging: Hanging,
    /// Requests in flight for too long.
    hang: u64,
    /// How many requests a verdict about the error rate needs.
    needed: u64,
    until: Duration,
    extensions: u32,
    observations: u32,
    last_observation: Duration,
    late_observations: u32,
    traffic: TrafficSample,
    own: Tally,
    /// The requests within the last window, by observation, and how many hung then.
    recent: VecDeque<(Duration, Tally, u64)>,
    liveness: Liveness,
    unread: BTreeMap<String, u32>,
    /// Which router's requests were missing at the last observation, and why.
    missing: Option<String>,
}

impl Bake {
    /// Starts a bake. `before` is what clients received from the active release before the switch. `can_ask_previous`
    /// says whether copies of requests can be sent to it.
    #[must_use]
    pub fn new(
        settings: BakeSettings,
        before: TrafficSample,
        predict_path: &str,
        can_ask_previous: bool,
    ) -> Self {
        let limit = latency_limit(&settings);
        Self {
            predict_path: predict_path.to_owned(),
            hanging: Hanging::new(hang_timeout(&settings, &before)),
            hang: 0,
            budget: ErrorBudget::new(&settings, &before, settings.duration * (1 + EXTENSIONS)),
            previous: PreviousRelease::new(
                can_ask_previous && settings.ask_previous,
                limit,
                settings.max_rise,
            ),
            until: settings.duration,
            needed: needed_requests(&settings),
            liveness: Liveness::new(settings.failures),
            settings,
            before,
            extensions: 0,
            observations: 0,
            last_observation: Duration::ZERO,
            late_observations: 0,
            traffic: TrafficSample::default(),
            own: Tally::default(),
            recent: VecDeque::new(),
            unread: BTreeMap::new(),
            missing: None,
        }
    }

    /// Returns how many requests are missing at this point of the bake for a verdict at its end.
    #[must_use]
    pub fn missing_requests(&self) -> usize {
        let observations = self.until.as_millis() / self.settings.interval.as_millis().max(1);
        let needed = self.needed * u64::from(1 + self.extensions);
        let each = u128::from(needed).div_ceil(observations.max(1));
        let due = (each * u128::from(self.observations)).min(u128::from(needed));
        // Other routes say nothing of predictions.
        let routes = self.traffic.endings.routes();
        let others = routes.filter(|(route, _)| route.path != self.predict_path);
        let others: u64 = others.map(|(_, endings)| endings.failures().requests).sum();
        let predictions = self.traffic.tally.requests.saturating_sub(others);
        let missing = due.saturating_sub(u128::from(predictions));
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
        self.liveness.last_failure()
    }

    /// Whether the previous release is being asked, so that it needs copies of requests.
    #[must_use]
    pub fn is_asking_previous(&self) -> bool {
        self.previous.is_being_asked()
    }

    /// Records that copies cannot be sent, or not be read.
    pub fn cannot_ask_previous(&mut self) {
        self.previous.cannot_be_asked();
    }

    /// Adds one observation.
    pub fn record(&mut self, observation: Observation) {
        self.observations += 1;
        let late = observation.at > self.last_observation + 2 * self.settings.interval;
        self.late_observations += u32::from(late);
        self.last_observation = observation.at;
        self.liveness.record(&observation);
        self.traffic.add(&observation.traffic);
        self.own.add(observation.own);
        self.record_in_flight(observation.in_flight, observation.ended);
        self.previous
            .record(observation.originals, observation.copies, observation.at);
        self.recent
            .push_back((observation.at, observation.traffic.tally, self.hang));
        while let Some((at, ..)) = self.recent.front()
            && *at + self.settings.window < observation.at
        {
            self.recent.pop_front();
        }
        self.missing = observation.missing;
        for what in observation.unread {
            *self.unread.entry(what).or_default() += 1;
        }
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

    fn assess(&mut self, elapsed: Duration) -> Option<Verdict> {
        if let Some(verdict) = self.certain_failure(elapsed) {
            return Some(verdict);
        }
        // The next observations show whether a check that fails at the end continues to fail, and what the previous
        // release answers.
        if elapsed >= self.until + MAX_QUESTIONS {
            self.previous.cannot_be_asked();
        }
        if elapsed < self.until || self.trouble().is_some() || self.is_asking_previous() {
            return None;
        }
        self.final_verdict(elapsed)
    }

    fn certain_failure(&mut self, elapsed: Duration) -> Option<Verdict> {
        self.liveness
            .failure()
            .or_else(|| self.failed_by_errors())
            .or_else(|| self.fails_by_comparison(elapsed))
    }

    /// Returns a verdict if the candidate certainly fails more requests than allowed.
    fn failed_by_errors(&self) -> Option<Verdict> {
        let window = humantime::format_duration(self.settings.window);
        let mut readings = vec![
            (self.traffic.tally, String::new()),
            (self.in_last_window(), format!("in the last {window}, ")),
            (
                self.by_its_own_counters(),
                "by its own counters, ".to_owned(),
            ),
            (self.own, "of the deployer's own requests, ".to_owned()),
        ];
        // Answers on one route must not hide failures on another one.
        let routes = self.traffic.endings.routes();
        let worse = routes.filter(|(route, endings)| self.fails_more_than_before(route, endings));
        readings.extend(worse.map(|(route, endings)| {
            let failed = endings.describe(|ending| ending.is_good(false) == Some(false));
            (endings.failures(), format!("on {route}, {failed}: "))
        }));
        readings.into_iter().find_map(|(tally, source)| {
            let verdict = judge_errors(&self.settings, tally, self.budget.z());
            (verdict.conclusion == Conclusion::Fail).then(|| Verdict {
                summary: format!("{source}{}", verdict.summary),
                ..verdict
            })
        })
    }

    /// Returns a verdict if the candidate is certainly worse than the previous release was, and is now.
    fn fails_by_comparison(&mut self, elapsed: Duration) -> Option<Verdict> {
        let rises: Vec<_> = self.rises().certain().collect();
        let mut regressions: Vec<(Regression, String)> = rises
            .into_iter()
            .map(|(symptom, text)| (Regression::Rise(symptom), text))
            .collect();
        regressions.extend(self.late_clients());
        // The first requests after a switch open connections and fill caches.
        let warm = elapsed >= self.settings.duration / 2;
        if warm && let Some(text) = self.slower() {
            regressions.push((Regression::Latency, text));
        }
        for (regression, text) in regressions {
            match self.previous.compare(&regression, elapsed) {
                PreviousComparison::Pending | PreviousComparison::Shared => {}
                PreviousComparison::Confirmed(asked) if asked.is_empty() => {
                    return Some(Verdict::new(Conclusion::Fail, text));
                }
                PreviousComparison::Confirmed(asked) => {
                    return Some(Verdict::new(Conclusion::Fail, format!("{text}; {asked}")));
                }
            }
        }
        let problem = self
            .several_releases_answer()
            .or_else(|| self.requests_hang())
            .or_else(|| self.sizes_differ())
            .or_else(|| self.label_shift().filter(|_| warm))?;
        Some(Verdict::new(Conclusion::Fail, problem))
    }

    /// The verdict at the end of a bake in which nothing failed with certainty; `None` while the previous release is asked.
    fn final_verdict(&mut self, elapsed: Duration) -> Option<Verdict> {
        if let Some(missing) = &self.missing {
            return Some(Verdict::new(
                Conclusion::Inconclusive,
                format!("requests are missing: {missing}"),
            ));
        }
        let judge = |tally| judge_errors(&self.settings, tally, self.budget.z());
        let by_itself = judge(self.by_its_own_counters());
        if self.traffic.tally.requests < self.settings.min_requests
            && by_itself.conclusion == Conclusion::Pass
        {
            return Some(Verdict {
                summary: format!("by its own counters alone, {}", by_itself.summary),
                ..by_itself
            });
        }
        let verdict = judge(self.traffic.tally);
        if verdict.conclusion != Conclusion::Pass {
            return Some(verdict);
        }
        let inconclusive = |text: String| Verdict {
            conclusion: Conclusion::Inconclusive,
            summary: format!("{text}, which may be chance"),
            ..verdict.clone()
        };
        if let Some(text) = self.too_many_give_up() {
            return Some(inconclusive(text));
        }
        let rises: Vec<_> = self.rises().probable().collect();
        for (symptom, text) in rises {
            match self.previous.compare(&Regression::Rise(symptom), elapsed) {
                PreviousComparison::Pending => return None,
                PreviousComparison::Shared => {}
                PreviousComparison::Confirmed(_) => return Some(inconclusive(text)),
            }
        }
        Some(verdict)
    }

    fn rises(&self) -> Rises<'_> {
        Rises {
            settings: &self.settings,
            z: self.budget.z(),
            before: &self.before.endings,
            since: &self.traffic.endings,
        }
    }

    /// The requests since the switch by the candidate's counters, without those that failed on both colors.
    fn by_its_own_counters(&self) -> Tally {
        let mut tally = self.liveness.counters().increase(self.own);
        let routes = self.traffic.endings.routes();
        let both_failed: u64 = routes.map(|(_, endings)| endings.both_failed()).sum();
        let not_to_blame = both_failed.min(tally.failed);
        tally.requests -= not_to_blame;
        tally.failed -= not_to_blame;
        tally
    }

    /// The requests within the last window.
    fn in_last_window(&self) -> Tally {
        self.recent.iter().map(|(_, tally, _)| *tally).sum()
    }
}
