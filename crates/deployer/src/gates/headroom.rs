//! The gate `headroom`: is the worst latency under load far enough from the router's timeout?

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    config::{HeadroomSettings, LoadSettings},
    evidence::{
        latency::milliseconds,
        load::LoadPlan,
        verdict::{Conclusion, Verdict},
    },
    gates::{
        gate::{Candidate, Gate},
        load::{SILENCE, generate},
    },
};

/// A longer load adds little about the worst latency.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

/// Compares the worst latency under load with the router's configuration.
#[derive(Debug)]
pub struct Headroom {
    settings: HeadroomSettings,
    load: LoadSettings,
}

impl Headroom {
    /// Creates the gate. If the gate `load` did not run, this gate generates a short load itself.
    #[must_use]
    pub fn new(settings: HeadroomSettings, load: LoadSettings) -> Self {
        Self { settings, load }
    }

    /// Generates a load. Returns its worst latency in seconds, and whether that is a silence of a stream; or the verdict if
    /// no request was answered.
    async fn worst_of_a_load(&self, candidate: &Candidate<'_>) -> Result<(f64, bool), Verdict> {
        let plan = LoadPlan {
            duration: self.load.duration.min(LONG_ENOUGH),
            ..LoadPlan::new(&self.load, candidate.before)
        };
        let load = generate(candidate, &self.load, plan).await?;
        if load.latencies.count() == 0 {
            let why = format!("no request of {} was answered", load.tally.requests);
            return Err(Verdict::new(Conclusion::Inconclusive, why));
        }
        Ok(match &load.streams {
            Some(streams) => (streams.longest_silence.as_secs_f64(), true),
            None => (load.latencies.worst().as_secs_f64(), false),
        })
    }
}

#[async_trait]
impl Gate for Headroom {
    fn name(&self) -> &'static str {
        "headroom"
    }

    async fn judge(&self, candidate: &Candidate<'_>) -> Verdict {
        let load = candidate.earlier.iter().find(|(name, _)| *name == "load");
        let measured = load.and_then(|(_, verdict)| {
            let silence = verdict.numbers.get(SILENCE);
            let worst = silence.or_else(|| verdict.numbers.get("worst_seconds"))?;
            Some((*worst, silence.is_some()))
        });
        let (worst, is_silence) = match measured {
            Some(measured) => measured,
            None => match self.worst_of_a_load(candidate).await {
                Ok(worst) => worst,
                Err(verdict) => return verdict,
            },
        };
        let limit = match candidate.ports.router.limits().await {
            Ok(Some(limits)) => limits.read.as_secs_f64(),
            Ok(None) => return Verdict::skipped("router.configuration is not set"),
            Err(error) => return Verdict::new(Conclusion::Inconclusive, error.to_string()),
        };
        let factor = self.settings.factor;
        let (conclusion, than) = if worst * factor < limit {
            (Conclusion::Pass, "below")
        } else {
            (Conclusion::Fail, "not below")
        };
        // The router waits so long between two reads of the server, however long a stream is.
        let what = if is_silence {
            "longest silence of a stream"
        } else {
            "worst latency"
        };
        let summary = format!(
            "{factor} times the {what} under load, {}, is {than} the router's proxy_read_timeout, {limit} s",
            milliseconds(worst)
        );
        Verdict::new(conclusion, summary)
            .with("worst_seconds", worst)
            .with("worst_limit_seconds", limit / factor)
            .with("read_timeout_seconds", limit)
    }
}
