//! Load by wrk, and the figures that it gives. Its latencies are corrected for coordinated omission: one that
//! is twice the mean interval between a connection's requests or longer stands for those that would have
//! been sent meanwhile as well (`stats_correct` in its `stats.c`).

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use tokio::process::Command;

/// Beyond the seconds asked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Marks the line that holds wrk's figures.
const MARK: &str = "figures:";

/// The figures of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Requests a second, whatever became of them.
    pub(crate) per_second: f64,
    /// Of those, the ones that were answered with success.
    pub(crate) succeeded_per_second: f64,
    /// Milliseconds that half of the requests took at most.
    pub(crate) p50: f64,
    /// Milliseconds that 90 % of the requests took at most.
    pub(crate) p90: f64,
    /// Milliseconds that 99 % of the requests took at most.
    pub(crate) p99: f64,
    /// Requests that failed or were answered with a status of 400 or more.
    pub(crate) failed: u64,
}

/// Bodies to post, in turn.
#[derive(Debug)]
pub(crate) struct Bodies(PathBuf);

impl Bodies {
    /// Writes a script that posts `bodies` in turn, and tells the figures in one line: wrk's own
    /// report is for people.
    pub(crate) fn write(script: &Path, bodies: &[String]) -> anyhow::Result<Self> {
        let list = script.with_extension("bodies");
        fs::write(&list, bodies.join("\n"))?;
        let text = format!(
            r#"
local requests, turn = {{}}, 0

function init(arguments)
  wrk.headers["Content-Type"] = "application/json"
  for body in io.lines("{list}") do
    requests[#requests + 1] = wrk.format("POST", nil, nil, body)
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format("{MARK} %d %d %d %d %d %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), failed))
end
"#,
            list = list.display()
        );
        fs::write(script, text)?;
        Ok(Self(script.to_owned()))
    }

    /// Posts them to `path` of `target` for some seconds, over `connections` connections.
    pub(crate) async fn post(
        &self,
        target: SocketAddr,
        path: &str,
        connections: usize,
        seconds: u64,
    ) -> anyhow::Result<Sample> {
        let threads = connections.min(2);
        let run = Command::new("wrk")
            .args([
                format!("-t{threads}"),
                format!("-c{connections}"),
                format!("-d{seconds}s"),
            ])
            .args(["--timeout", "20s", "--script"])
            .arg(&self.0)
            .arg(format!("http://{target}{path}"))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(Duration::from_secs(seconds) + PATIENCE, run)
            .await
            .context("wrk did not end")?
            .context("cannot run wrk")?;
        let said = String::from_utf8_lossy(&output.stdout);
        sample(&said).with_context(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!(
                "wrk ended with {} and no figures: {said}{errors}",
                output.status
            )
        })
    }
}

fn sample(said: &str) -> Option<Sample> {
    let line = said.lines().find_map(|line| line.strip_prefix(MARK))?;
    let figures: Vec<u64> = line
        .split_whitespace()
        .map(|figure| figure.parse().ok())
        .collect::<Option<_>>()?;
    let [requests, microseconds, p50, p90, p99, failed] = figures[..] else {
        return None;
    };
    let seconds = microseconds as f64 / 1e6;
    Some(Sample {
        per_second: requests as f64 / seconds,
        succeeded_per_second: requests.saturating_sub(failed) as f64 / seconds,
        p50: p50 as f64 / 1e3,
        p90: p90 as f64 / 1e3,
        p99: p99 as f64 / 1e3,
        failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_found_in_what_wrk_says() {
        let said = "Running 5s test\nfigures: 1000 5000000 2500 6000 9000 100\n";
        let expected = Sample {
            per_second: 200.0,
            succeeded_per_second: 180.0,
            p50: 2.5,
            p90: 6.0,
            p99: 9.0,
            failed: 100,
        };
        assert_eq!(sample(said), Some(expected));
    }

    #[test]
    fn a_report_without_figures_is_no_sample() {
        assert_eq!(sample("unable to connect to 127.0.0.1:1\n"), None);
    }
}
