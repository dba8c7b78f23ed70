//! Waits for a color outside of a deployment's gates.

use crate::{
    color::Color,
    config::HealthSettings,
    event::Reporter,
    evidence::{sample::TrafficSample, verdict::Verdict},
    examples::Examples,
    gates::{Candidate, Gate as _, GoldenLabels, Healthy},
    ports::Ports,
    release::Release,
    request_reader::RequestReader,
};

/// Judges `color` by the gate `health`: it becomes healthy in time, and does not stop while it starts.
pub async fn await_healthy(
    settings: &HealthSettings,
    ports: &Ports,
    color: Color,
    release: &Release,
    reporter: &dyn Reporter,
) -> Verdict {
    let candidate = Candidate {
        color,
        release,
        ports,
        requests: &RequestReader::new(ports.request_log.as_deref(), reporter),
        examples: &Examples::default(),
        before: &TrafficSample::default(),
        earlier: &[],
        nothing_to_compare: false,
        golden_labels: &GoldenLabels::default(),
        reporter,
    };
    Healthy::new(settings.clone()).judge(&candidate).await
}
