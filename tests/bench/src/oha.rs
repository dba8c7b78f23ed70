//! Load by oha, which corrects no latency unless it is told to, and can send at a fixed rate.

use std::{collections::BTreeMap, net::SocketAddr, process::Stdio, time::Duration};

use anyhow::Context as _;
use serde::Deserialize;
use tokio::process::Command;

use crate::wrk::Sample;

/// Beyond the seconds asked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Posts `body` for some seconds: at `rate` requests a second, each of whose latencies counts from when it
/// was due, or else as fast as it is answered.
pub(crate) async fn post(
    target: SocketAddr,
    body: &str,
    connections: usize,
    seconds: u64,
    rate: Option<f64>,
) -> anyhow::Result<Sample> {
    let mut command = Command::new("oha");
    command
        .args(["--no-tui", "--output-format", "json"])
        // What was sent in time is waited for.
        .args(["-w", "-z", &format!("{seconds}s"), "-t", "20s"])
        .args(["-c", &connections.to_string()])
        .args(["-m", "POST", "-T", "application/json", "-d", body]);
    if let Some(rate) = rate {
        command.args(["-q", &rate.to_string(), "--latency-correction"]);
    }
    let run = command
        .arg(format!("http://{target}/predict"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(seconds) + PATIENCE, run)
        .await
        .context("oha did not end")?
        .context("cannot run oha")?;
    let said = String::from_utf8_lossy(&output.stdout);
    sample(&said, seconds).with_context(|| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!(
            "oha ended with {} and no figures: {said}{errors}",
            output.status
        )
    })
}

/// What is read of oha's report; latencies are seconds.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    latency_percentiles: BTreeMap<String, f64>,
    status_code_distribution: BTreeMap<u16, u64>,
    error_distribution: BTreeMap<String, u64>,
}

fn sample(said: &str, seconds: u64) -> anyhow::Result<Sample> {
    let report: Report = serde_json::from_str(said)?;
    let answered: u64 = report.status_code_distribution.values().sum();
    let succeeded = report.status_code_distribution.range(200..300);
    let succeeded: u64 = succeeded.map(|(_, count)| count).sum();
    let all = answered + report.error_distribution.values().sum::<u64>();
    let milliseconds = |name: &str| {
        let latency = report.latency_percentiles.get(name);
        latency.map(|it| it * 1e3).context(name.to_owned())
    };
    Ok(Sample {
        per_second: all as f64 / seconds as f64,
        succeeded_per_second: succeeded as f64 / seconds as f64,
        p50: milliseconds("p50")?,
        p90: milliseconds("p90")?,
        p99: milliseconds("p99")?,
        failed: all - succeeded,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_found_in_what_oha_says() {
        let said = r#"{
            "summary": {"requestsPerSec": 39.0},
            "latencyPercentiles": {"p50": 0.025, "p90": 0.05, "p95": 0.06, "p99": 0.1},
            "statusCodeDistribution": {"200": 180, "503": 15},
            "errorDistribution": {"timeout": 5}
        }"#;
        let expected = Sample {
            per_second: 40.0,
            succeeded_per_second: 36.0,
            p50: 25.0,
            p90: 50.0,
            p99: 100.0,
            failed: 20,
        };
        assert_eq!(sample(said, 5).unwrap(), expected);
    }

    #[test]
    fn a_report_without_figures_is_no_sample() {
        assert!(sample("error: unexpected argument", 5).is_err());
    }
}
