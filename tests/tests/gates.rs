//! The gates and the watch on real servers: a good release passes all of them, and for each one there
//! is a release that fails it and nothing else.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use end_to_end::{Stack, Watch, post};
use serde_json::Value;

/// A few hundred requests a second, which leave the two cores room.
const CLIENTS: usize = 16;
const PAUSE: Duration = Duration::from_millis(20);
/// Long enough for hundreds of requests before and after the switch.
const WATCH: Watch = Watch(Duration::from_secs(10));
const ALL: &str = r#"gates.run=["identity","reachable","smoke","golden","agreement","load","comparison","headroom","shadow"]"#;
/// As many requests at a time as by default, for a shorter time.
const SHORT: [&str; 5] = [
    "load.duration=2s",
    "load.max_p99=19s",
    "shadow.duration=3s",
    // A larger model in a build that is hardly optimized, on two cores that clients share.
    "shadow.negligible=400ms",
    "watch.negligible=400ms",
];

type Result<T = ()> = anyhow::Result<T>;

/// Deploys under traffic that must not notice; the report's data.
async fn deploy(code: i32, version: &str, settings: &[&str]) -> Result<Value> {
    let stack = Stack::of_processes("faulty-server", WATCH)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(CLIENTS, PAUSE)?;
    traffic.reach(1_000).await?;
    let mut arguments = vec!["deploy", version];
    arguments.extend(
        SHORT
            .iter()
            .chain(settings)
            .flat_map(|setting| ["--set", setting]),
    );
    stack.expect(code, &arguments).await?;
    traffic.stop().await.ensure_none_failed()?;
    let shown = stack.expect(0, &["report", "--json"]).await?;
    let report: Value = serde_json::from_str(&shown.stdout)?;
    let id = report["plan"]["id"].as_str().context("no id")?;
    let page = std::fs::read_to_string(stack.path(&format!("state/reports/{id}.html")))?;
    ensure!(page.contains("</html>"), "{page}");
    Ok(report)
}

/// Each gate with its finding.
fn findings(report: &Value) -> Vec<(&str, &str)> {
    report["gates"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|judged| {
            (
                judged["gate"].as_str().unwrap_or_default(),
                judged["finding"].as_str().unwrap_or_default(),
            )
        })
        .collect()
}

/// Deploys a release that this gate refuses, after it passed all before it.
async fn refused_by(gate: &str, version: &str, settings: &[&str], because: &str) -> Result {
    let report = deploy(10, version, settings).await?;
    let findings = findings(&report);
    let (last, before) = findings.split_last().context("no gate was asked")?;
    ensure!(*last == (gate, "fail"), "{findings:?}");
    ensure!(
        before.iter().all(|(_, finding)| *finding == "pass"),
        "{findings:?}"
    );
    let reason = report["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(because), "{reason}");
    ensure!(report["switched"].is_null(), "{report}");
    Ok(())
}

/// Deploys a release that passes every gate and is then rolled back.
async fn rolled_back(version: &str, because: &str) -> Result {
    let report = deploy(20, version, &[]).await?;
    let findings = findings(&report);
    ensure!(findings.last() == Some(&("watch", "fail")), "{findings:?}");
    let reason = report["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(because), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_release_passes_every_gate_and_the_report_shows_it() -> Result {
    let report = deploy(0, "v2", &[ALL]).await?;
    let wanted = [
        "health",
        "identity",
        "reachable",
        "smoke",
        "golden",
        "agreement",
        "load",
        "comparison",
        "headroom",
        "shadow",
        "watch",
    ];
    ensure!(
        findings(&report) == wanted.map(|gate| (gate, "pass")),
        "{report:#}"
    );
    let numbers = |gate: &str| {
        let judged = report["gates"].as_array().into_iter().flatten();
        judged
            .clone()
            .find(|judged| judged["gate"] == gate)
            .map(|judged| &judged["numbers"])
    };
    let golden = numbers("golden").context("no golden set")?;
    ensure!(
        golden["accuracy"].as_f64() > golden["active_accuracy"].as_f64(),
        "{golden}"
    );
    let load = numbers("load").context("no load")?;
    ensure!(
        load["concurrency"] == 500.0 && load["failed"] == 0.0,
        "{load}"
    );
    let shadow = numbers("shadow").context("no shadow")?;
    ensure!(shadow["requests"].as_f64() > Some(100.0), "{shadow}");
    ensure!(shadow["client_p99_during_seconds"].is_number(), "{shadow}");
    ensure!(!report["switched"].is_null(), "{report}");
    let seconds = report["traffic"].as_array().context("no traffic")?;
    for color in ["blue", "green"] {
        let of_color = seconds.iter().filter(|second| second["color"] == color);
        let requests: f64 = of_color
            .filter_map(|second| second["requests"].as_f64())
            .sum();
        ensure!(requests > 100.0, "{color}: {requests}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_biased_release_is_refused_by_the_golden_set() -> Result {
    refused_by("golden", "biased", &[ALL], "at least 70.0 % needed").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_disagrees_is_refused_where_that_is_wanted() -> Result {
    let settings = [
        r#"gates.run=["smoke","agreement","load"]"#,
        "agreement.min_agreement=0.8",
    ];
    refused_by("agreement", "biased", &settings, "at least 80.0 % needed").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_breaks_under_load_is_refused() -> Result {
    refused_by("load", "breaks-under-load", &[ALL], "; status 500: ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_release_is_refused() -> Result {
    // Without those that ask it many times one after the other.
    let settings = [r#"gates.run=["identity","reachable","smoke","load","comparison"]"#];
    refused_by(
        "comparison",
        "slow",
        &settings,
        "times the active release's",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_stalls_too_near_the_routers_limit_is_refused() -> Result {
    let settings = [ALL, "headroom.factor=100"];
    let because = "is not below the router's proxy_read_timeout, 120 s";
    refused_by("headroom", "stalls-under-load", &settings, because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_clients_alone_is_refused_by_copies_of_their_requests() -> Result {
    refused_by("shadow", "fails-clients", &[ALL], "of copies, ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_makes_clients_wait_is_rolled_back() -> Result {
    rolled_back("slow-for-clients", "clients wait for longer: p9").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_gives_clients_other_labels_is_rolled_back() -> Result {
    rolled_back(
        "biased-for-clients",
        "clients are given other labels than before the switch: negative 100 %",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_whose_own_counters_tell_of_errors_is_rolled_back() -> Result {
    let stack = Stack::of_processes("model-server", WATCH)?;
    stack.expect(0, &["up"]).await?;
    let traffic = stack.traffic(2, PAUSE)?;
    let arguments = ["deploy", "v2", "--watch", "30s"];
    let deployer = stack.start_deployer(&arguments)?;
    stack.await_phase("switched").await?;
    // Past the router, whose log tells nothing of it: more than can be answered in a millisecond.
    let green = format!("127.0.0.1:{}", stack.ports().green());
    let body = serde_json::json!({"texts": vec!["not so fine, not so fine"; 64]}).to_string();
    for _ in 0..60 {
        let status = post(&green, "/predict", "x-request-timeout-ms: 1", &body).await?;
        ensure!(status == 504, "{status}");
    }
    let run = Stack::finish(deployer, &arguments).await?;
    ensure!(run.code == 20, "{run:?}");
    ensure!(run.stderr.contains("by its own counters, "), "{run:?}");
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_idle_can_be_validated_by_single_gates() -> Result {
    let stack = Stack::of_processes("faulty-server", WATCH)?;
    stack.expect(0, &["up"]).await?;
    let passed = stack
        .expect(0, &["validate", "--only", "golden,identity", "--json"])
        .await?;
    let last = passed.stdout.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(last)?;
    ensure!(said["passed"] == true, "{said}");
    ensure!(
        findings(&said) == [("identity", "pass"), ("golden", "pass")],
        "{said}"
    );
    let other = stack
        .expect(10, &["validate", "v1", "--only", "identity"])
        .await?;
    ensure!(
        other
            .stdout
            .contains("it reports version v2, but v1 is wanted"),
        "{}",
        other.stdout
    );
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_want_an_api_key_are_proven_and_watched_with_one_and_refused_without() -> Result
{
    let stack = Stack::of_processes("model-server", Watch(Duration::from_secs(2)))?;
    let keys = stack.path("keys");
    std::fs::write(&keys, "# for the deployer\nkey-of-the-deployer\n")?;
    let servers = [("API_KEYS_FILE", keys.as_os_str())];
    let run = async |code: i32, arguments: &[&str]| {
        let child = stack.start_deployer_with(arguments, &servers)?;
        let run = Stack::finish(child, arguments).await?;
        ensure!(run.code == code, "{run:?}");
        anyhow::Ok(run)
    };
    run(0, &["up"]).await?;
    let refused = run(10, &["deploy", "v2"]).await?;
    ensure!(refused.stderr.contains("answered 401"), "{refused:?}");
    let gates = r#"gates.run=["smoke","golden","load","comparison"]"#;
    let mut arguments = vec!["deploy", "v2", "--set", gates];
    for setting in SHORT.iter().chain(&["probe.api_key_file=keys"]) {
        arguments.extend(["--set", setting]);
    }
    let promoted = run(0, &arguments).await?;
    ensure!(
        !format!("{promoted:?}").contains("key-of-the-deployer"),
        "{promoted:?}"
    );
    Ok(())
}
