//! Faulty releases judged by all gates: exactly one gate fails, for the right reason.

use anyhow::ensure;
use end_to_end::{Stack, post};
use serde_json::Value;

use super::{
    ALL, BAKE, CLIENTS, FEW, LONG_PAUSE, PAUSE, Result, SHORT, deploy, findings, rolled_back,
};

/// Runs every gate on an idle release beside an active one, under traffic that must not fail. Only `gate` must
/// not pass, for this reason.
async fn stopped_by(
    gate: &str,
    [active, version]: [&str; 2],
    settings: &[&str],
    because: &str,
) -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
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
        .expect_exit(0, &["--set", &colors[0], "--set", &colors[1], "up"])
        .await?;
    let traffic = stack.start_traffic(FEW, LONG_PAUSE)?;
    traffic.wait_for_requests(300).await?;
    let mut arguments = vec!["validate", version, "--keep-going", "--json", "--set", ALL];
    arguments.extend(
        SHORT
            .iter()
            .chain(&["load.concurrency=150"])
            .chain(settings)
            .flat_map(|setting| ["--set", setting]),
    );
    let run = stack.expect_exit(10, &arguments).await?;
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

#[tokio::test(flavor = "multi_thread")]
async fn golden_refuses_biased_release_after_earlier_gates() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let report = deploy(&stack, 10, "biased", &[ALL]).await?;
    let findings = findings(&report);
    ensure!(findings.last() == Some(&("golden", "fail")), "{findings:?}");
    ensure!(report["switched"].is_null(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_refuses_other_files_under_same_version() -> Result {
    let because = "it reports digest 0";
    stopped_by("identity", ["v1", "other-digest"], &[], because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reachable_refuses_release_that_router_does_not_reach() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.redirect_upstream("green", stack.ports().blue())?;
    // The other server would answer copies in the candidate's place.
    let gates = r#"gates.run=["identity","reachable","smoke","golden","agreement"]"#;
    let because = "the router reaches another server: it reports version v1, but v2 is wanted";
    stopped_in(&stack, "reachable", ["v1", "v2"], &[gates], because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn smoke_refuses_release_that_fails_at_first() -> Result {
    let settings = ["smoke.max_error_rate=0.05"];
    let because = "5 of 50 requests failed (10.0 %, at most 5.0 % allowed)";
    stopped_by("smoke", ["v1", "fails-early"], &settings, because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_refuses_less_accurate_release() -> Result {
    let because = "; for 99 % certain of ";
    stopped_by("golden", ["v2", "every-eighth-wrong"], &[], because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn agreement_refuses_release_that_disagrees() -> Result {
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
async fn load_refuses_release_that_breaks_under_load() -> Result {
    stopped_by("load", ["v1", "breaks-under-load"], &[], "; status 500: ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn load_refuses_release_that_is_slow_under_load() -> Result {
    let settings = ["load.max_p99=7s"];
    let because = "(at most 7000 ms allowed)";
    stopped_by("load", ["v1", "slow-under-load"], &settings, because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn comparison_refuses_slow_release() -> Result {
    let settings = ["comparison.negligible=100ms"];
    stopped_by("comparison", ["v1", "slow"], &settings, "p50 ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn comparison_refuses_release_that_is_slow_at_times() -> Result {
    let settings = ["comparison.negligible=400ms"];
    let because = ", p99 ";
    stopped_by("comparison", ["v1", "rarely-slow"], &settings, because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn headroom_refuses_release_that_stalls_near_router_timeout() -> Result {
    let settings = ["headroom.factor=100", "load.concurrency=500"];
    let because = "is not below the router's proxy_read_timeout, 120 s";
    stopped_by("headroom", ["v1", "stalls-under-load"], &settings, because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_refuses_release_that_fails_client_requests() -> Result {
    stopped_by("shadow", ["v1", "fails-clients"], &[], "of copies, ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_refuses_release_that_is_slow_for_clients() -> Result {
    let settings = ["shadow.negligible=400ms"];
    stopped_by("shadow", ["v1", "slow-for-clients"], &settings, "; p9").await
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_refuses_release_with_label_drift() -> Result {
    let because = "its labels are distributed otherwise";
    stopped_by("shadow", ["v1", "biased-for-clients"], &[], because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_late_failures_by_sliding_window() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CLIENTS, PAUSE)?;
    let settings = [
        "bake.duration=40s",
        "bake.window=2s",
        "bake.max_error_rate=0.1",
    ];
    let because = ": in the last 2s, ";
    rolled_back(&stack, &traffic, "partly-fails-late", &settings, because).await?;
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_errors_in_own_counters() -> Result {
    let stack = Stack::with_processes("model-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(2, PAUSE)?;
    let arguments = ["deploy", "v2", "--bake", "30s"];
    let deployer = stack.start_deployer(&arguments)?;
    stack.wait_for_phase("switched").await?;
    // Sent past the router, whose log shows nothing of it. Its forward pass takes many times the 1 ms that the
    // header allows.
    let green = format!("127.0.0.1:{}", stack.ports().green());
    let text = "not so fine, ".repeat(16);
    let body = serde_json::json!({"texts": vec![text; 64]}).to_string();
    for _ in 0..60 {
        let status = post(&green, "/predict", "x-request-timeout-ms: 1", &body).await?;
        ensure!(status == 504, "{status}");
    }
    let run = Stack::wait_for_exit(deployer, &arguments).await?;
    ensure!(run.code == 20, "{run:?}");
    ensure!(run.stderr.contains("by its own counters, "), "{run:?}");
    traffic.stop().await.ensure_none_failed()
}
