//! The Grafana dashboard and the alert rules of `docs/grafana`, by Prometheus' own programs and with real metrics.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    process::Command,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, PortBlock, Stack, get, post, repository};
use serde_json::Value;

type Result<T = ()> = anyhow::Result<T>;

/// The time limit for everything that Prometheus must have scraped.
const PATIENCE: Duration = Duration::from_mins(1);

fn promtool(arguments: &[&str]) -> Result {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(repository().join("docs/grafana"))
        .output()
        .context("promtool cannot be run; scripts/setup test installs it")?;
    ensure!(
        output.status.success(),
        "promtool {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn read(name: &str) -> Result<String> {
    let path = repository().join("docs/grafana").join(name);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}

fn dashboard() -> Result<Value> {
    Ok(serde_json::from_str(&read("dashboard.json")?)?)
}

fn array<'a>(value: &'a Value, pointer: &str) -> Result<&'a Vec<Value>> {
    let found = value.pointer(pointer).and_then(Value::as_array);
    found.with_context(|| format!("{pointer} is not an array"))
}

/// The panels that show something, without the headings.
fn panels(dashboard: &Value) -> Result<Vec<&Value>> {
    let panels = array(dashboard, "/panels")?.iter();
    Ok(panels.filter(|panel| panel["type"] != "row").collect())
}

/// The queries of all panels and annotations.
fn queries(dashboard: &Value) -> Result<BTreeSet<String>> {
    let mut queries = BTreeSet::new();
    let targets = panels(dashboard)?
        .into_iter()
        .map(|panel| array(panel, "/targets"))
        .collect::<Result<Vec<_>>>()?;
    let annotations = array(dashboard, "/annotations/list")?;
    for target in targets.into_iter().flatten().chain(annotations) {
        let query = target["expr"].as_str().context("a query")?;
        queries.insert(query.replace("$__rate_interval", "30s"));
    }
    Ok(queries)
}

#[test]
fn alert_rules_pass_promtool_and_each_one_is_tested() -> Result {
    promtool(&["check", "rules", "rules.yaml"])?;
    promtool(&["test", "rules", "rules.test.yaml"])?;
    let (rules, tests) = (read("rules.yaml")?, read("rules.test.yaml")?);
    let names = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for name in names {
        let tested = format!("alertname: {name}\n");
        let fires = tests.split(&tested).skip(1).any(|test| {
            let end = test.find("- alertname:").unwrap_or(test.len());
            test[..end].contains("exp_alerts:")
        });
        ensure!(fires, "no test in which {name} fires");
    }
    Ok(())
}

#[test]
fn dashboard_is_well_formed() -> Result {
    let dashboard = dashboard()?;
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in array(&dashboard, "/panels")? {
        let title = panel["title"].as_str().context("a title")?;
        ensure!(
            ids.insert(panel["id"].as_u64()),
            "{title}: its ID is not unique"
        );
        let place = |key: &str| panel["gridPos"][key].as_u64().context(title.to_owned());
        let (x, y, width, height) = (place("x")?, place("y")?, place("w")?, place("h")?);
        ensure!(x + width <= 24, "{title} is outside of the grid");
        for cell in (y..y + height).flat_map(|y| (x..x + width).map(move |x| (x, y))) {
            ensure!(cells.insert(cell), "{title} covers another panel");
        }
    }
    for panel in panels(&dashboard)? {
        let title = &panel["title"];
        for target in array(panel, "/targets")? {
            let source = &target["datasource"]["uid"];
            ensure!(source == "${datasource}", "{title}: {source}");
        }
    }
    let variable = &dashboard["templating"]["list"][0];
    ensure!(variable["name"] == "datasource" && variable["type"] == "datasource");
    Ok(())
}

/// A Prometheus that scrapes the monitor and both servers of a stack each second, and evaluates the rules.
struct Prometheus {
    address: String,
    _process: tokio::process::Child,
    _directory: tempfile::TempDir,
}

impl Prometheus {
    fn start(stack: &Stack, ports: &PortBlock) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let rules = repository().join("docs/grafana/rules.yaml");
        let (monitor, blue, green) = (ports.metrics(), stack.ports().blue(), stack.ports().green());
        let configuration = format!(
            "\
global:
  scrape_interval: 1s
  evaluation_interval: 1s
rule_files: ['{}']
scrape_configs:
  - job_name: deployer-monitor
    static_configs:
      - targets: ['127.0.0.1:{monitor}']
  - job_name: model-server
    static_configs:
      - targets: ['127.0.0.1:{blue}', '127.0.0.1:{green}']
",
            rules.display()
        );
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, configuration)?;
        let address = format!("127.0.0.1:{}", ports.router());
        let process = tokio::process::Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=error")
            .kill_on_drop(true)
            .spawn()
            .context("prometheus cannot be run; scripts/setup test installs it")?;
        Ok(Self {
            address,
            _process: process,
            _directory: directory,
        })
    }

    async fn ask(&self, path: &str) -> Result<Value> {
        Ok(serde_json::from_str(&get(&self.address, path).await?)?)
    }

    /// Returns how many series a query has had since `since`. A query that Prometheus rejects is an error.
    async fn count_series(&self, query: &str, since: SystemTime) -> Result<usize> {
        let at =
            |time: SystemTime| Ok::<_, anyhow::Error>(time.duration_since(UNIX_EPOCH)?.as_secs());
        let (start, end) = (at(since)?, at(SystemTime::now())?);
        let query = percent_encoded(query);
        let path = format!("/api/v1/query_range?start={start}&end={end}&step=1&query={query}");
        let answer = self.ask(&path).await?;
        ensure!(answer["status"] == "success", "{answer}");
        Ok(array(&answer, "/data/result")?.len())
    }
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        // Writing to a string cannot fail.
        let _ = write!(encoded, "%{byte:02X}");
        encoded
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_queries_and_rules_match_real_metrics() -> Result {
    let bake = BakeDuration(Duration::from_secs(1));
    let stack = Stack::with_processes("model-server", bake)?;
    stack.expect_exit(0, &["up"]).await?;
    let ports = PortBlock::reserve()?;
    let setting = format!("monitor.metrics=127.0.0.1:{}", ports.metrics());
    let _monitor = stack.start_deployer(&["monitor", "--set", &setting])?;
    let since = SystemTime::now();
    let prometheus = Prometheus::start(&stack, &ports)?;
    // Before the deployment: a move of traffic is a change of a series that exists.
    let deadline = Instant::now() + PATIENCE;
    while !matches!(
        prometheus.count_series("deployer_active", since).await,
        Ok(2)
    ) {
        ensure!(Instant::now() < deadline, "the monitor is not scraped");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let deploy = [
        "deploy",
        "v2",
        "--set",
        "bake.on_inconclusive=promote",
        "--set",
        "health.stall=30s",
    ];
    stack.expect_exit(0, &deploy).await?;
    let traffic = stack.start_traffic(4, Duration::from_millis(20))?;
    let router = stack.router_address().to_string();
    let status = post(&router, "/predict", "x-test: 1", "{}").await?;
    ensure!(status == 400, "{status}");

    let mut missing = queries(&dashboard()?)?;
    ensure!(missing.len() > 25, "{missing:?}");
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "queries without a series: {missing:#?}"
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut left = BTreeSet::new();
        for query in missing {
            if prometheus.count_series(&query, since).await? == 0 {
                left.insert(query);
            }
        }
        missing = left;
    }
    traffic.stop().await.ensure_none_failed()?;

    // The rules are evaluated without an error, and no alert fires that needs no time.
    let rules = prometheus.ask("/api/v1/rules").await?;
    for group in array(&rules, "/data/groups")? {
        for rule in array(group, "/rules")? {
            ensure!(rule["health"] == "ok", "{rule}");
            ensure!(rule["state"] != "firing", "{rule}");
        }
    }
    Ok(())
}
