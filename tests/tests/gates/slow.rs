//! The gates and the watch on real servers: a good release passes all of them, and for each one there
//! is a release that fails it and nothing else.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use end_to_end::{Stack, Watch, post};
use serde_json::Value;

/// A few hundred requests a second, which leave the two cores room.
const CLIENTS: usize = 16;
const PAUSE: Duration = Duration::from_millis(20);
/// Fewer, since the larger model gets a copy of each, however busy it is.
const FEW: usize = 8;
const LONG_PAUSE: Duration = Duration::from_millis(80);
/// Long enough for hundreds of requests before and after the switch.
const WATCH: Watch = Watch(Duration::from_secs(10));
const ALL: &str = r#"gates.run=["identity","reachable","smoke","golden","agreement","load","comparison","headroom","shadow"]"#;
/// As many requests at a time as by default, for a shorter time.
const SHORT: [&str; 6] = [
    "load.duration=2s",
    "load.max_p99=19s",
    "shadow.duration=4s",
    // A larger model in a build that is hardly optimized, on two cores that clients share.
    "comparison.negligible=1s",
    "shadow.negligible=10s",
    "watch.negligible=400ms",
];

type Result<T = ()> = anyhow::Result<T>;

/// Deploys under traffic that must not notice; the report's data.
async fn deploy(code: i32, version: &str, settings: &[&str]) -> Result<Value> {
    let stack = Stack::of_processes("faulty-server", WATCH)?;
    stack.expect(0, &["up"]).await?;
    let traffic = if settings.contains(&ALL) {
        stack.traffic(FEW, LONG_PAUSE)?
    } else {
        stack.traffic(CLIENTS, PAUSE)?
    };
    traffic.reach(600).await?;
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

/// Asks an idle release every gate beside an active one, under traffic that must not notice: `gate` alone
/// is not passed, for this reason.
async fn stopped_by(
    gate: &str,
    [active, version]: [&str; 2],
    settings: &[&str],
    because: &str,
) -> Result {
    let stack = Stack::of_processes("faulty-server", WATCH)?;
    stopped_in(&stack, gate, [active, version], settings, because).await
}

async fn stopped_in(
    stack: &Stack,
    gate: &str,
    [active, version]: [&str; 2],
    settings: &[&str],
    because: &str,
) -> Result {
    let colors = [
        format!("blue.version={active}"),
        format!("green.version={version}"),
    ];
    stack
        .expect(0, &["--set", &colors[0], "--set", &colors[1], "up"])
        .await?;
    let traffic = stack.traffic(FEW, LONG_PAUSE)?;
    traffic.reach(300).await?;
    let mut arguments = vec!["validate", version, "--keep-going", "--json", "--set", ALL];
    arguments.extend(
        SHORT
            .iter()
            .chain(&["load.concurrency=150"])
            .chain(settings)
            .flat_map(|setting| ["--set", setting]),
    );
    let run = stack.expect(10, &arguments).await?;
    traffic.stop().await.ensure_none_failed()?;
    let said: Value = serde_json::from_str(run.stdout.lines().last().unwrap_or_default())?;
    let not_passed: Vec<_> = findings(&said)
        .into_iter()
        .filter(|(_, finding)| *finding != "pass")
        .collect();
    ensure!(not_passed == [(gate, "fail")], "{said:#}");
    let judged = said["gates"].as_array().into_iter().flatten();
    let summary = judged.clone().find(|judged| judged["gate"] == gate);
    let summary = summary.and_then(|judged| judged["summary"].as_str());
    let summary = summary.unwrap_or_default();
    ensure!(summary.contains(because), "{summary}");
    Ok(())
}

/// Deploys a release that passes every gate and is then rolled back.
async fn rolled_back(version: &str, settings: &[&str], because: &str) -> Result {
    let report = deploy(20, version, settings).await?;
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
async fn a_biased_release_is_refused_and_gets_no_traffic() -> Result {
    let report = deploy(10, "biased", &[ALL]).await?;
    let findings = findings(&report);
    ensure!(findings.last() == Some(&("golden", "fail")), "{findings:?}");
    let reason = report["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("at least 70.0 % needed"), "{reason}");
    ensure!(report["switched"].is_null(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_with_other_files_under_the_same_version_is_stopped_by_identity() -> Result {
    let because = "it reports digest 0";
    stopped_by("identity", ["v1", "other-digest"], &[], because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_the_router_does_not_reach_is_stopped() -> Result {
    let stack = Stack::of_processes("faulty-server", WATCH)?;
    stack.reach_another_in("green", stack.ports().blue())?;
    // It would answer copies in place of the candidate.
    let gates = r#"gates.run=["identity","reachable","smoke","golden","agreement"]"#;
    let because = "the router reaches another server: it reports version v1, but v2 is wanted";
    stopped_in(&stack, "reachable", ["v1", "v2"], &[gates], because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_at_first_is_stopped_by_the_smoke_test() -> Result {
    let settings = ["smoke.max_error_rate=0.05"];
    let because = "5 of 50 requests failed (10.0 %, at most 5.0 % allowed)";
    stopped_by("smoke", ["v1", "fails-at-first"], &settings, because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_right_less_often_than_the_active_one_is_stopped() -> Result {
    let because = "; for 99 % certain of ";
    stopped_by("golden", ["v2", "every-eighth-wrong"], &[], because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_disagrees_is_stopped_where_that_is_wanted() -> Result {
    let settings = ["agreement.min_agreement=0.99"];
    stopped_by(
        "agreement",
        ["v1", "v2"],
        &settings,
        "at least 99.0 % needed",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_breaks_under_load_is_stopped() -> Result {
    stopped_by("load", ["v1", "breaks-under-load"], &[], "; status 500: ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_slow_under_load_is_stopped() -> Result {
    let settings = ["load.max_p99=7s"];
    let because = "(at most 7000 ms allowed)";
    stopped_by("load", ["v1", "slow-under-load"], &settings, because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_release_is_stopped_by_the_comparison() -> Result {
    let settings = ["comparison.negligible=100ms"];
    stopped_by("comparison", ["v1", "slow"], &settings, "p50 ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_slow_at_times_is_stopped_by_the_comparison() -> Result {
    let settings = ["comparison.negligible=400ms"];
    let because = ", p99 ";
    stopped_by("comparison", ["v1", "slow-at-times"], &settings, because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_stalls_too_near_the_routers_limit_is_stopped() -> Result {
    let settings = ["headroom.factor=100", "load.concurrency=500"];
    let because = "is not below the router's proxy_read_timeout, 120 s";
    stopped_by("headroom", ["v1", "stalls-under-load"], &settings, because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_clients_alone_is_stopped_by_copies_of_their_requests() -> Result {
    stopped_by("shadow", ["v1", "fails-clients"], &[], "of copies, ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_is_slow_for_clients_is_stopped_by_copies_of_their_requests() -> Result {
    let settings = ["shadow.negligible=400ms"];
    stopped_by("shadow", ["v1", "slow-for-clients"], &settings, "; p9").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_with_other_labels_for_clients_is_stopped_by_copies_of_their_requests() -> Result
{
    let because = "its labels are distributed otherwise";
    stopped_by("shadow", ["v1", "biased-for-clients"], &[], because).await
}

/// How long clients wait while copies of their requests hang on a slow candidate.
#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_wait_for_the_copies_of_their_requests() -> Result {
    let stack = Stack::of_processes("faulty-server", WATCH)?;
    let up = ["--set", "green.version=slow-for-clients", "up"];
    stack.expect(0, &up).await?;
    let traffic = stack.traffic(FEW, LONG_PAUSE)?;
    traffic.reach(300).await?;
    let mut shadow = vec!["validate", "--only", "shadow", "--json"];
    for setting in ["shadow.duration=4s", "shadow.negligible=1m"] {
        shadow.extend(["--set", setting]);
    }
    let run = stack.expect(0, &shadow).await?;
    traffic.stop().await.ensure_none_failed()?;
    let said: Value = serde_json::from_str(run.stdout.lines().last().unwrap_or_default())?;
    let numbers = &said["gates"][0]["numbers"];
    let figure = |name: &str| numbers[name].as_f64().context(name.to_owned());
    let candidate = figure("p90_seconds").or_else(|_| figure("p99_seconds"))?;
    ensure!(candidate > 0.8, "{numbers:#}");
    let [before, during] = [
        figure("client_p99_before_seconds")?,
        figure("client_p99_during_seconds")?,
    ];
    ensure!(during < before + 0.2, "{numbers:#}");
    ensure!(figure("requests")? > 100.0, "{numbers:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_makes_clients_wait_is_rolled_back() -> Result {
    rolled_back("slow-for-clients", &[], "clients wait for longer: p9").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_gives_clients_other_labels_is_rolled_back() -> Result {
    let because = "clients are given other labels than before the switch: negative 100 %";
    rolled_back("biased-for-clients", &[], because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_at_last_is_rolled_back_by_the_sliding_window() -> Result {
    let settings = [
        "watch.duration=40s",
        "watch.window=2s",
        "watch.max_error_rate=0.1",
    ];
    rolled_back("fails-at-last", &settings, ": in the last 2s, ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_was_started_again_is_rolled_back() -> Result {
    rolled_back("restarts", &[], "so it crashed and was started again").await
}

/// Deploys a good release behind a router that sends clients elsewhere once they are switched.
async fn led_astray(port: impl FnOnce(&Stack) -> u16, because: &str) -> Result {
    let stack = Stack::of_processes("model-server", WATCH)?;
    stack.reach_another_in("green_then_blue", port(&stack))?;
    stack.expect(0, &["up"]).await?;
    let run = stack.expect(20, &["deploy", "v2"]).await?;
    ensure!(run.stderr.contains(because), "{}", run.stderr);
    ensure!(stack.status().await?["active"] == "blue");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_after_which_another_release_answers_is_taken_back() -> Result {
    let because = "after the switch clients are answered by another release: it reports version v1";
    led_astray(|stack| stack.ports().blue(), because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_after_which_nobody_answers_is_taken_back() -> Result {
    let because = "after the switch clients are not answered: ";
    led_astray(|stack| stack.ports().metrics(), because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_leaves_it_open_is_what_the_settings_say() -> Result {
    let stack = Stack::of_processes("model-server", Watch(Duration::from_secs(2)))?;
    stack.expect(0, &["up"]).await?;
    for (code, on_inconclusive, version) in [
        (20, "watch.on_inconclusive=rollback", "v2"),
        (0, "watch.on_inconclusive=promote", "v2"),
    ] {
        let run = stack
            .expect(
                code,
                &[
                    "deploy",
                    version,
                    "--set",
                    "watch.min_requests=1000000",
                    "--set",
                    on_inconclusive,
                ],
            )
            .await?;
        ensure!(
            run.stderr.contains("at least 1000000 are needed to judge"),
            "{}",
            run.stderr
        );
    }
    Ok(())
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
    // What is only skipped is not proven.
    let skipped = ["validate", "--only", "shadow", "--set"];
    let skipped = [&skipped[..], &["router.shadow_log="]].concat();
    let skipped = stack.expect(10, &skipped).await?;
    ensure!(
        skipped.stdout.contains("every gate was skipped: shadow"),
        "{}",
        skipped.stdout
    );
    // Makes a load of its own.
    stack.expect(0, &["validate", "--only", "headroom"]).await?;
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
