//! Compares latencies, labels, and sizes of answers with those before the switch.

use std::{collections::BTreeMap, time::Duration};

use super::{Bake, error_rate::judge_errors, previous::Regression, rises::RouteSymptom};
use crate::config::BakeSettings;
use crate::evidence::{
    difference::{Share, rise},
    endings::{RouteEndings, Symptom},
    latency::{ComparedTail, Latencies, LatencyLimit},
    request::Route,
    sample::{ENOUGH_LABELS, TrafficSample},
    statistics::{Drift, drift_of_labels, wilson},
    tally::Tally,
    verdict::Conclusion,
};

impl Bake {
    /// Compares how long clients wait with how long they waited before; `None` with too few requests.
    pub(super) fn compare_tails(&self) -> Option<ComparedTail> {
        let limit = latency_limit(&self.settings);
        limit.compare_tails(
            &self.traffic.latencies,
            &self.before.latencies,
            self.budget.z(),
        )
    }

    /// Returns why clients wait longer than before, if they do.
    pub(super) fn slower(&self) -> Option<String> {
        let compared = self.compare_tails()?;
        compared.exceeds.then(|| {
            format!("clients wait longer: {compared}, by bake.max_ratio and bake.negligible")
        })
    }

    /// The drift of the labels since before the switch; `None` with too few labels.
    pub(super) fn label_drift(&self) -> Option<Drift> {
        let both = [&self.before, &self.traffic];
        both.iter()
            .all(|traffic| traffic.has_enough_labels())
            .then(|| {
                let [before, since] = both.map(TrafficSample::independent_labels);
                drift_of_labels(&before, &since, self.budget.of_one_test())
            })
    }

    /// Returns how the labels differ from those before the switch, if they do.
    pub(super) fn label_shift(&self) -> Option<String> {
        let allowed = self.settings.max_label_drift;
        let drift = self.label_drift().filter(|drift| drift.exceeds(allowed))?;
        Some(format!(
            "the labels differ from those before the switch: {} instead of {} (population stability index {:.2}; bake.max_label_drift allows {allowed}, plus {:.2} for chance)",
            shares(&self.traffic.labels),
            shares(&self.before.labels),
            drift.index,
            drift.by_chance
        ))
    }

    /// Returns on which route the answers are typically far smaller or larger than before, if there is one.
    pub(super) fn sizes_differ(&self) -> Option<String> {
        let limit = self.settings.max_size_ratio;
        self.before
            .endings
            .answered_routes()
            .find_map(|(route, before)| {
                let since = self.traffic.endings.on_route(route)?;
                let [size_before, size_since] = size_differs(before, since, limit)?;
                Some(format!(
                    "its answers have another size: {route}, typically {size_since:.0} bytes since the switch, and {size_before:.0} before (bake.max_size_ratio allows a factor of {limit})"
                ))
            })
    }

    /// Returns which releases answered as the candidate, if there are several. A server that names several releases also
    /// before the switch names its models so.
    pub(super) fn several_releases_answer(&self) -> Option<String> {
        let releases = &self.traffic.releases;
        let several = releases.are_several() && !self.before.releases.are_several();
        several.then(|| {
            format!("several releases answer as the candidate, by x-model-version and x-model-digest: {releases}")
        })
    }

    /// Returns how many requests hang, if certainly more than before: since the switch, or of the last window.
    pub(super) fn requests_hang(&self) -> Option<String> {
        let hang_timeout = hang_timeout(&self.settings, &self.before);
        let waits = &self.before.waits;
        let before = Tally {
            requests: waits.count(),
            failed: waits.count_above(hang_timeout),
        };
        let hung_before_window = self.recent.front().map_or(0, |(_, _, hang)| *hang);
        let newly = self.hang.saturating_sub(hung_before_window);
        let readings = [
            (self.traffic.tally, self.hang),
            (self.in_last_window(), newly),
        ];
        readings.into_iter().find_map(|(ended, hang)| {
            let since = Tally {
                requests: ended.requests + hang,
                failed: hang,
            };
            let [share_before, share_since] = [before, since].map(|it| Share::of_blocks(&[it]));
            let rises = rise(share_before, share_since, self.budget.z()).low > self.settings.max_rise;
            (rises && since.requests >= self.settings.min_requests).then(|| {
                format!(
                    "requests hang: {hang} of {} have had no answer for more than {:.1} s, and {} of {} waited that long before (a rise of {:.1} points is allowed by bake.max_rise)",
                    since.requests,
                    hang_timeout.as_secs_f64(),
                    before.failed,
                    before.requests,
                    100.0 * self.settings.max_rise
                )
            })
        })
    }

    /// Whether requests on this route fail more often than before. A route that neither release ever answered, as a scanner
    /// asks for, says nothing.
    pub(super) fn fails_more_than_before(&self, route: &Route, since: &RouteEndings) -> bool {
        let before = self.before.endings.on_route(route);
        let failures = before.map(RouteEndings::failures).unwrap_or_default();
        let comparable = failures.requests >= self.settings.min_requests;
        let rise = since.failures().error_rate() - failures.error_rate();
        (since.is_answered() || before.is_some_and(RouteEndings::is_answered))
            && (!comparable || rise > self.settings.max_rise)
    }

    /// Returns each route on which the candidate certainly fails too many requests if a client that gave up after a wait
    /// that is too long counts, too.
    pub(super) fn late_clients(&self) -> Vec<(Regression, String)> {
        let limit = self.settings.max_error_rate;
        let routes = self.traffic.endings.routes();
        let late = routes.filter_map(|(route, endings)| {
            let allowed = self.allowed_wait(route)?;
            let late = endings.gave_up_late(allowed);
            let mut failures = endings.failures();
            failures.failed += late;
            let enough = failures.requests >= self.settings.min_requests && late > 0;
            let fails = wilson(failures, self.budget.z()).low > limit;
            (enough && fails).then(|| {
                let symptom = RouteSymptom {
                    route: route.clone(),
                    symptom: Symptom::GaveUp,
                };
                let text = format!(
                    "clients give up before an answer: {route}, {late} of {} after more than {:.1} s (bake.max_ratio, bake.negligible), {} of {} failed (bake.max_error_rate allows {:.1} %)",
                    failures.requests,
                    allowed.as_secs_f64(),
                    failures.failed - late,
                    failures.requests,
                    100.0 * limit
                );
                (Regression::Rise(symptom), text)
            })
        });
        late.collect()
    }

    /// Returns on which route clients gave up too late, if it cannot be ruled out that far too many do. Own requests do
    /// not tell, because the deployer waits longer. So even a few requests of clients count here.
    pub(super) fn too_many_give_up(&self) -> Option<String> {
        let settings = BakeSettings {
            min_requests: 1,
            ..self.settings.clone()
        };
        self.traffic.endings.routes().find_map(|(route, endings)| {
            let tally = Tally {
                failed: endings.gave_up_late(self.allowed_wait(route)?),
                ..endings.failures()
            };
            let verdict = judge_errors(&settings, tally, self.budget.z());
            (tally.failed > 0 && verdict.conclusion != Conclusion::Pass).then(|| {
                format!(
                    "clients give up late: {route}, {} of {} requests",
                    tally.failed, tally.requests
                )
            })
        })
    }

    /// How long a client has to wait at least before giving up speaks against the candidate; `None` if too few
    /// requests were answered before.
    pub(super) fn allowed_wait(&self, route: &Route) -> Option<Duration> {
        let took = self.before.endings.on_route(route)?.took();
        longest_allowed(&self.settings, took)
    }
}

pub(super) fn latency_limit(settings: &BakeSettings) -> LatencyLimit {
    LatencyLimit {
        max_ratio: settings.max_ratio,
        negligible: settings.negligible,
    }
}

/// How long a request may be in flight before it counts as hanging: longer than the latency rule allows.
pub(super) fn hang_timeout(settings: &BakeSettings, before: &TrafficSample) -> Duration {
    /// A shorter wait is slow, and the latencies tell.
    const LEAST: Duration = Duration::from_secs(1);
    /// Without enough requests before the switch.
    const USUAL: Duration = Duration::from_secs(10);

    longest_allowed(settings, &before.waits).map_or(USUAL, |longest| longest.max(LEAST))
}

/// The longest time that the latency rule allows after these times; `None` if they are too few.
fn longest_allowed(settings: &BakeSettings, before: &Latencies) -> Option<Duration> {
    const MIN_REQUESTS: u64 = 100;

    let usual = before.quantile(0.99);
    let ratio = latency_limit(settings).allowed_ratio(usual.as_secs_f64());
    (before.count() >= MIN_REQUESTS).then(|| usual.mul_f64(ratio))
}

/// Returns how the typical size of answers differs, if it certainly does.
fn size_differs(before: &RouteEndings, since: &RouteEndings, max_ratio: f64) -> Option<[f64; 2]> {
    /// The median lies within them, however uneven the sizes are.
    const AROUND_MEDIAN: [f64; 2] = [0.4, 0.6];

    let enough = |endings: &RouteEndings| endings.answer_size(0.5).0 >= ENOUGH_LABELS;
    if !enough(before) || !enough(since) {
        return None;
    }
    // One byte more, so that an empty answer has a ratio.
    let size = |endings: &RouteEndings, at| endings.answer_size(at).1 + 1.0;
    let [low, high] = AROUND_MEDIAN;
    let smaller = size(since, high) * max_ratio < size(before, low);
    let larger = size(since, low) > size(before, high) * max_ratio;
    (smaller || larger).then(|| [before, since].map(|endings| endings.answer_size(0.5).1))
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
