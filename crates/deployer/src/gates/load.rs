//! The gate `load`: does the candidate bear load?

mod clients;

use async_trait::async_trait;

use crate::{
    config::LoadSettings,
    evidence::{
        details::Evidence,
        latency::{LatencyLimit, milliseconds},
        load::{LoadPlan, LoadResult},
        statistics::{Z_99, wilson},
        tally::Tally,
        verdict::{Conclusion, Verdict},
    },
    gates::{
        gate::{Candidate, Gate},
        load::clients::ClientWaits,
    },
    ports::Target,
};

/// The share of requests above p99.
const ABOVE_P99: f64 = 0.01;

/// The figure of the longest time without an event in a stream, which the gate `headroom` reads.
pub(super) const SILENCE: &str = "worst_silence_seconds";

/// Sends load directly to the candidate, and stops if it slows clients down.
#[derive(Debug)]
pub struct LoadGate {
    settings: LoadSettings,
}

impl LoadGate {
    /// Creates the gate with this load and these limits.
    #[must_use]
    pub fn new(settings: LoadSettings) -> Self {
        Self { settings }
    }

    fn assess(&self, plan: &LoadPlan, load: &LoadResult) -> Verdict {
        let LoadSettings {
            max_p99,
            max_error_rate,
            ..
        } = self.settings;
        let corrected = load.corrected(plan);
        let p99 = corrected.quantile(0.99).as_secs_f64();
        let throughput = load.throughput();
        let mut verdict = Verdict::of_error_rate(load.tally, max_error_rate, 1);
        let kinds: Vec<String> = load
            .errors
            .iter()
            .map(|(kind, count)| format!("{kind}: {count}"))
            .collect();
        if !kinds.is_empty() {
            verdict.summary.push_str("; ");
            verdict.summary.push_str(&kinds.join(", "));
        }
        if verdict.conclusion == Conclusion::Pass {
            verdict.summary = match &load.streams {
                None => format!(
                    "{}; {throughput:.0} requests/s, p99 {}",
                    verdict.summary,
                    milliseconds(p99)
                ),
                Some(streams) => format!(
                    "{}; {throughput:.1} streams/s, p99 between tokens {}, p99 to the first token {}",
                    verdict.summary,
                    milliseconds(streams.gaps.quantile(0.99).as_secs_f64()),
                    milliseconds(p99)
                ),
            };
            let slow = corrected.longer_than(max_p99);
            let allowed = milliseconds(max_p99.as_secs_f64());
            if p99 > max_p99.as_secs_f64() && is_certain_of_p99(slow) {
                verdict.conclusion = Conclusion::Fail;
                verdict.summary = format!("{} (at most {allowed} allowed)", verdict.summary);
            } else if p99 > max_p99.as_secs_f64() {
                verdict.warnings.push(format!(
                    "{} of {} requests took longer than {allowed} (load.max_p99), which may be chance",
                    slow.failed, slow.requests
                ));
            }
        }
        for (name, uncorrected, share) in [
            ("p50_seconds", "p50_uncorrected_seconds", 0.5),
            ("p90_seconds", "p90_uncorrected_seconds", 0.9),
            ("p99_seconds", "p99_uncorrected_seconds", 0.99),
            ("p999_seconds", "p999_uncorrected_seconds", 0.999),
        ] {
            verdict = verdict
                .with(name, corrected.quantile(share).as_secs_f64())
                .with(uncorrected, load.latencies.quantile(share).as_secs_f64());
        }
        if let Some(streams) = &load.streams {
            let seconds = load.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
            verdict = verdict
                .with("gap_p50_seconds", streams.gaps.quantile(0.5).as_secs_f64())
                .with("gap_p99_seconds", streams.gaps.quantile(0.99).as_secs_f64())
                .with("tokens_per_second", streams.tokens as f64 / seconds)
                .with(SILENCE, streams.longest_silence.as_secs_f64());
        }
        with_plan(verdict, plan)
            .with("requests_per_second", throughput)
            .with("p99_limit_seconds", max_p99.as_secs_f64())
            .with("worst_seconds", load.latencies.worst().as_secs_f64())
            .with_evidence(Evidence {
                candidate_latency: Some(corrected),
                errors: load.errors.clone(),
                ..Evidence::default()
            })
    }
}

#[async_trait]
impl Gate for LoadGate {
    fn name(&self) -> &'static str {
        "load"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let plan = LoadPlan::new(&self.settings, candidate.before);
        match generate(candidate, &self.settings, plan).await {
            Ok(load) => self.assess(&plan, &load),
            Err(verdict) => with_plan(verdict, &plan),
        }
    }
}

/// Sends load to the candidate. If the load fails, or slows the active color's clients down, returns the verdict
/// that nothing is known.
pub(super) async fn generate(
    candidate: &Candidate<'_>,
    settings: &LoadSettings,
    plan: LoadPlan,
) -> Result<LoadResult, Verdict> {
    let target = Target::Server(candidate.color);
    let bodies = candidate.examples.load.clone();
    let mut clients = ClientWaits::after(candidate.before, settings.max_p99);
    clients.begin(candidate).await;
    tokio::select! {
        load = candidate.ports.probe.load(target, bodies, plan) => {
            load.map_err(|error| Verdict::new(Conclusion::Inconclusive, error.to_string()))
        }
        verdict = clients.wait_until_slow(candidate, plan) => Err(verdict),
    }
}

/// Whether requests that took too long show p99: enough requests, or so many slow ones that it is 99 % certain. p99 of 50
/// requests is the slowest one, and every machine pauses at times.
fn is_certain_of_p99(slow: Tally) -> bool {
    slow.requests >= LatencyLimit::ENOUGH_FOR_P99 || wilson(slow, Z_99).low > ABOVE_P99
}

/// Adds how much load was asked for.
fn with_plan(verdict: Verdict, plan: &LoadPlan) -> Verdict {
    match plan.rate {
        Some(rate) => verdict.with("asked_per_second", rate),
        None => verdict.with("concurrency", plan.concurrency as f64),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settings() -> LoadSettings {
        LoadSettings {
            inputs: None,
            rate: 0.0,
            concurrency: 10,
            duration: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            max_p99: Duration::from_millis(100),
            max_error_rate: 0.01,
        }
    }

    fn plan() -> LoadPlan {
        LoadPlan {
            concurrency: 10,
            duration: Duration::from_secs(1),
            rate: Some(100.0),
            timeout: Duration::from_secs(1),
        }
    }

    fn assess(load: &LoadResult) -> Verdict {
        LoadGate::new(settings()).assess(&plan(), load)
    }

    fn load(took: Duration) -> LoadResult {
        let mut load = LoadResult {
            elapsed: Duration::from_secs(1),
            in_time: 100,
            ..LoadResult::default()
        };
        for _ in 0..100 {
            load.answered(took);
        }
        load
    }

    #[test]
    fn timeouts_count_as_slow_answers() {
        let mut load = load(Duration::from_millis(20));
        for _ in 0..5 {
            load.timed_out("timed out", Duration::from_secs(1));
        }
        let settings = LoadSettings {
            max_error_rate: 0.5,
            ..settings()
        };
        let verdict = LoadGate::new(settings).assess(&plan(), &load);
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert!(verdict.numbers["p99_seconds"] >= 1.0);
        assert!(verdict.numbers["worst_seconds"] >= 1.0);
    }

    #[test]
    fn fast_answers_pass_the_load_gate() {
        let verdict = assess(&load(Duration::from_millis(20)));
        assert_eq!(verdict.conclusion, Conclusion::Pass);
        assert_eq!(
            verdict.summary,
            "0 of 100 requests failed (0.0 %); 100 requests/s, p99 20.0 ms"
        );
        assert!((verdict.numbers["p50_seconds"] - 0.02).abs() < 1e-4);
    }

    #[test]
    fn slow_answers_fail_the_load_gate() {
        let verdict = assess(&load(Duration::from_millis(130)));
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert!(
            verdict
                .summary
                .ends_with("p99 130 ms (at most 100 ms allowed)"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn few_slow_answers_fail_the_load_gate_only_beyond_chance() {
        let with_slow = |slow, answers| {
            let mut load = load(Duration::from_millis(20));
            for number in 0..answers {
                load.answered(Duration::from_millis(if number < slow { 130 } else { 20 }));
            }
            assess(&load)
        };
        let single = with_slow(1, 1);
        assert_eq!(single.conclusion, Conclusion::Pass);
        assert!(single.warnings.is_empty(), "p99 is within the limit");
        let two = with_slow(2, 2);
        assert_eq!(two.conclusion, Conclusion::Pass);
        assert_eq!(
            two.warnings,
            ["2 of 102 requests took longer than 100 ms (load.max_p99), which may be chance"]
        );
        assert_eq!(with_slow(5, 5).conclusion, Conclusion::Fail);
        // Enough requests for p99.
        assert_eq!(with_slow(6, 400).conclusion, Conclusion::Fail);
    }

    #[test]
    fn load_failure_names_kinds_of_errors() {
        let mut load = load(Duration::from_millis(20));
        load.failed("status 503");
        load.failed("status 503");
        let verdict = assess(&load);
        assert_eq!(verdict.conclusion, Conclusion::Fail);
        assert!(
            verdict.summary.ends_with("; status 503: 2"),
            "{}",
            verdict.summary
        );
    }

    #[test]
    fn load_without_requests_is_inconclusive() {
        assert_eq!(
            assess(&LoadResult::default()).conclusion,
            Conclusion::Inconclusive
        );
    }
}
