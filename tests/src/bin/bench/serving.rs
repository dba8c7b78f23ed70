//! What a router costs while nothing is switched.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use tokio::process::Command;

use crate::{
    machine::Machine,
    progress,
    rig::{Color, Rig},
    statistics::{median, range},
};

pub(crate) const ROUNDS: usize = 3;
pub(crate) const SECONDS: u64 = 5;
pub(crate) const CONNECTIONS: usize = 64;
pub(crate) const SENTENCE: &str = r#"{"text":"The plot was not good at all."}"#;
/// Before the first round, so that nothing is measured cold.
const WARM_UP_SECONDS: u64 = 1;
/// Beyond the seconds asked for.
const PATIENCE: Duration = Duration::from_secs(15);
/// Workers from before a reload still answer for a moment.
const SETTLED: Duration = Duration::from_millis(300);
/// Marks the line that holds wrk's figures.
const MARK: &str = "figures:";

/// How requests get to the model server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Route {
    /// Without a router.
    Direct,
    /// Through an nginx that has one upstream and tests no flags.
    PlainRouter,
    /// Through this project's router.
    Router,
}

impl Route {
    pub(crate) const ALL: [Self; 3] = [Self::Direct, Self::PlainRouter, Self::Router];

    fn address(self, rig: &Rig, color: Color) -> SocketAddr {
        match self {
            Self::Direct => color.server(rig.stack.ports()),
            Self::PlainRouter => rig.plain_router.address(),
            Self::Router => rig.stack.router(),
        }
    }
}

/// The figures of one run of wrk.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    per_second: f64,
    p50: f64,
    p99: f64,
    failed: u64,
}

/// The figures of one color by one route.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) color: Color,
    pub(crate) route: Route,
    samples: Vec<Sample>,
}

impl Figures {
    /// Requests a second, the median of the rounds.
    pub(crate) fn per_second(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.per_second))
    }

    /// Requests a second in the slowest and in the fastest round.
    pub(crate) fn per_second_range(&self) -> (f64, f64) {
        range(self.samples.iter().map(|sample| sample.per_second))
    }

    /// Milliseconds that half of the requests took at most, the median of the rounds.
    pub(crate) fn p50(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.p50))
    }

    /// Milliseconds that 99 % of the requests took at most, the median of the rounds.
    pub(crate) fn p99(&self) -> f64 {
        median(self.samples.iter().map(|sample| sample.p99))
    }

    /// Requests that failed, in all rounds.
    pub(crate) fn failed(&self) -> u64 {
        self.samples.iter().map(|sample| sample.failed).sum()
    }
}

/// The figures of both colors by every route.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) figures: Vec<Figures>,
}

impl Serving {
    fn new() -> Self {
        let every_route = |color| {
            Route::ALL.map(|route| Figures {
                color,
                route,
                samples: Vec::new(),
            })
        };
        Self {
            figures: Color::BOTH.into_iter().flat_map(every_route).collect(),
        }
    }

    /// Requests a second by `route`, as a share of those without a router.
    pub(crate) fn share_of_direct(&self, color: Color, route: Route) -> f64 {
        let per_second = |route| {
            let figures = self
                .figures
                .iter()
                .find(|figures| (figures.color, figures.route) == (color, route));
            figures.map_or(f64::NAN, Figures::per_second)
        };
        per_second(route) / per_second(Route::Direct)
    }

    /// Figures of failed requests say nothing about serving.
    pub(crate) fn require_no_failure(&self) -> anyhow::Result<()> {
        let failed: u64 = self.figures.iter().map(Figures::failed).sum();
        anyhow::ensure!(failed == 0, "{failed} of wrk's requests failed");
        Ok(())
    }
}

/// Measures every color by every route, in rounds, each of which begins with another route.
pub(crate) async fn measure(rig: &Rig, machine: &mut Machine) -> anyhow::Result<Serving> {
    let script = write_script(rig)?;
    let mut serving = Serving::new();
    warm_up(rig, &script).await?;
    for round in 0..ROUNDS {
        for color in Color::BOTH {
            progress(&format!(
                "serving {}, round {} of {ROUNDS}",
                color.version(),
                round + 1
            ));
            point_both_at(rig, color).await?;
            let mut routes = Route::ALL;
            routes.rotate_left(round % Route::ALL.len());
            for route in routes {
                let sample = wrk(&script, route.address(rig, color), SECONDS).await?;
                let figures = serving
                    .figures
                    .iter_mut()
                    .find(|figures| (figures.color, figures.route) == (color, route));
                figures
                    .context("every color has every route")?
                    .samples
                    .push(sample);
            }
            machine.look_for_others().await?;
        }
    }
    Ok(serving)
}

async fn warm_up(rig: &Rig, script: &Path) -> anyhow::Result<()> {
    for color in Color::BOTH {
        point_both_at(rig, color).await?;
        for route in Route::ALL {
            wrk(script, route.address(rig, color), WARM_UP_SECONDS).await?;
        }
    }
    Ok(())
}

async fn point_both_at(rig: &Rig, color: Color) -> anyhow::Result<()> {
    rig.switch_by_deployer(color).await?;
    rig.plain_router.switch(color).await?;
    tokio::time::sleep(SETTLED).await;
    Ok(())
}

/// wrk's own report is for people; its script may print another one.
fn write_script(rig: &Rig) -> anyhow::Result<PathBuf> {
    let text = format!(
        r#"
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{SENTENCE}'

function done(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  print(string.format("{MARK} %d %d %d %d %d", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), failed))
end
"#
    );
    let path = rig.stack.path("predict.lua");
    fs::write(&path, text)?;
    Ok(path)
}

async fn wrk(script: &Path, target: SocketAddr, seconds: u64) -> anyhow::Result<Sample> {
    let run = Command::new("wrk")
        .args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{seconds}s")])
        .args(["--timeout", "10s", "--script"])
        .arg(script)
        .arg(format!("http://{target}/predict"))
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

fn sample(said: &str) -> Option<Sample> {
    let line = said.lines().find_map(|line| line.strip_prefix(MARK))?;
    let figures: Vec<u64> = line
        .split_whitespace()
        .map(|figure| figure.parse().ok())
        .collect::<Option<_>>()?;
    let [requests, microseconds, p50, p99, failed] = figures[..] else {
        return None;
    };
    Some(Sample {
        per_second: requests as f64 / (microseconds as f64 / 1e6),
        p50: p50 as f64 / 1e3,
        p99: p99 as f64 / 1e3,
        failed,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_found_in_what_wrk_says() {
        let said = "Running 5s test\nfigures: 1000 5000000 2500 9000 0\n";
        let expected = Sample {
            per_second: 200.0,
            p50: 2.5,
            p99: 9.0,
            failed: 0,
        };
        assert_eq!(sample(said), Some(expected));
    }

    #[test]
    fn a_report_without_figures_is_no_sample() {
        assert_eq!(sample("unable to connect to 127.0.0.1:1\n"), None);
    }
}
