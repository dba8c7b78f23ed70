//! All gates judge each faulty release. Exactly one gate must fail, and for the right reason.

use anyhow::ensure;
use end_to_end::{Stack, post};
use serde_json::Value;

use super::{
    ALL_GATES, BAKE, CLIENTS, FEW_CLIENTS, LONG_PAUSE, PAUSE, Result, SHORT_GATES, deploy,
    ensure_rolled_back, stack_with_embedded_limits, stack_with_shipped_settings, verdicts,
};

/// Validates `version` on the idle color with all gates, under client traffic. Fails unless only `gate` fails, for
/// this reason, and no client request fails.
async fn ensure_only_gate_fails(
    gate: &str,
    [active, version]: [&str; 2],
    settings: &[&str],
    reason: &str,
) -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    ensure_only_gate_fails_on(&stack, gate, [active, version], settings, reason).await
}

/// Does the same as [`ensure_only_gate_fails`], on a prepared stack.
async fn ensure_only_gate_fails_on(
    stack: &Stack,
    gate: &str,
    [active, version]: [&str; 2],
    settings: &[&str],
    reason: &str,
) -> Result {
    let colors = [
        format!("blue.version={active}"),
        format!("green.version={version}"),
    ];
    stack
        .expect_exit(0, &["--set", &colors[0], "--set", &colors[1], "up"])
        .await?;
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    traffic.wait_for_requests(300).await?;
    let mut arguments = vec![
        "validate",
        version,
        "--keep-going",
        "--json",
        "--set",
        ALL_GATES,
    ];
    arguments.extend(
        SHORT_GATES
            .iter()
            .chain(&["load.concurrency=150"])
            .chain(settings)
            .flat_map(|setting| ["--set", setting]),
    );
    let run = stack.expect_exit(10, &arguments).await?;
    traffic.stop().await.ensure_none_failed()?;
    let result: Value = serde_json::from_str(run.stdout.lines().last().unwrap_or_default())?;
    let not_passed: Vec<_> = verdicts(&result)
        .into_iter()
        .filter(|(_, verdict)| *verdict != "pass")
        .collect();
    ensure!(not_passed == [(gate, "fail")], "{result:#}");
    let recorded = result["gates"].as_array().into_iter().flatten();
    let summary = recorded.clone().find(|record| record["gate"] == gate);
    let summary = summary.and_then(|record| record["summary"].as_str());
    let summary = summary.unwrap_or_default();
    ensure!(summary.contains(reason), "{summary}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_refuses_biased_release_after_earlier_gates() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let report = deploy(&stack, 10, "biased", &[ALL_GATES]).await?;
    let verdicts = verdicts(&report);
    ensure!(verdicts.last() == Some(&("golden", "fail")), "{verdicts:?}");
    ensure!(report["switched"].is_null(), "{report}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_refuses_other_files_under_same_version() -> Result {
    let reason = "it reports digest 0";
    ensure_only_gate_fails("identity", ["v1", "other-digest"], &[], reason).await
}

#[tokio::test(flavor = "multi_thread")]
async fn reachable_refuses_release_that_router_does_not_reach() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.redirect_upstream("green", stack.ports().blue())?;
    // Later gates are left out: the other server would answer the copies of the gate `shadow`.
    let gates = r#"gates.run=["identity","reachable","smoke","golden","agreement"]"#;
    let reason = "the router reaches another server: it reports version v1, but v2 is wanted";
    ensure_only_gate_fails_on(&stack, "reachable", ["v1", "v2"], &[gates], reason).await
}

#[tokio::test(flavor = "multi_thread")]
async fn smoke_refuses_release_that_fails_at_first() -> Result {
    let settings = ["smoke.max_error_rate=0.05"];
    let reason = "5 of 50 requests failed (10.0 %, at most 5.0 % allowed)";
    ensure_only_gate_fails("smoke", ["v1", "fails-early"], &settings, reason).await
}

#[tokio::test(flavor = "multi_thread")]
async fn golden_refuses_less_accurate_release() -> Result {
    let reason = "; for 99 % certain of ";
    ensure_only_gate_fails("golden", ["v2", "every-eighth-wrong"], &[], reason).await
}

#[tokio::test(flavor = "multi_thread")]
async fn agreement_refuses_release_that_disagrees() -> Result {
    let settings = ["agreement.min_agreement=0.99"];
    ensure_only_gate_fails(
        "agreement",
        ["v1", "v2"],
        &settings,
        "at least 99.0 % needed",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn load_refuses_release_that_breaks_under_load() -> Result {
    ensure_only_gate_fails("load", ["v1", "breaks-under-load"], &[], "; status 500: ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn load_refuses_release_that_is_slow_under_load() -> Result {
    let settings = ["load.max_p99=7s"];
    let reason = "(at most 7000 ms allowed)";
    ensure_only_gate_fails("load", ["v1", "slow-under-load"], &settings, reason).await
}

#[tokio::test(flavor = "multi_thread")]
async fn comparison_refuses_slow_release() -> Result {
    let settings = ["comparison.negligible=100ms"];
    ensure_only_gate_fails("comparison", ["v1", "slow"], &settings, "p50 ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn comparison_refuses_release_that_is_slow_at_times() -> Result {
    let settings = ["comparison.negligible=400ms"];
    let reason = ", p99 ";
    ensure_only_gate_fails("comparison", ["v1", "rarely-slow"], &settings, reason).await
}

#[tokio::test(flavor = "multi_thread")]
async fn headroom_refuses_release_that_stalls_near_router_timeout() -> Result {
    let settings = ["headroom.factor=100", "load.concurrency=500"];
    let reason = "is not below the router's proxy_read_timeout, 120 s";
    ensure_only_gate_fails("headroom", ["v1", "stalls-under-load"], &settings, reason).await
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_refuses_release_that_fails_client_requests() -> Result {
    ensure_only_gate_fails("shadow", ["v1", "fails-clients"], &[], "of copies, ").await
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_refuses_release_that_is_slow_for_clients() -> Result {
    let settings = ["shadow.negligible=400ms"];
    ensure_only_gate_fails("shadow", ["v1", "slow-for-clients"], &settings, "; p9").await
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_refuses_release_with_label_drift() -> Result {
    let reason = "its labels are distributed differently";
    ensure_only_gate_fails("shadow", ["v1", "biased-for-clients"], &[], reason).await
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_settings_promote_equal_release_and_refuse_one_three_times_as_slow() -> Result {
    let stack = stack_with_embedded_limits()?;
    let colors = ["--set", "blue.version=large-model"];
    stack
        .expect_exit(0, &[&colors[..], &["up"]].concat())
        .await?;
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    traffic.wait_for_requests(600).await?;
    let refused = stack
        .expect_exit(10, &["deploy", "three-times-as-slow"])
        .await?;
    ensure!(refused.stderr.contains("comparison: p50 "), "{refused:?}");
    stack.expect_exit(0, &["deploy", "large-model"]).await?;
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn shipped_settings_promote_larger_model_on_idle_and_on_busy_machine() -> Result {
    let stack = stack_with_shipped_settings()?;
    stack.expect_exit(0, &["up"]).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    stack.expect_exit(0, &["rollback"]).await?;
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    traffic.wait_for_requests(600).await?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    traffic.stop().await.ensure_none_failed()
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
    let reason = ": in the last 2s, ";
    ensure_rolled_back(&stack, &traffic, "partly-fails-late", &settings, reason).await?;
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
    // These requests do not pass the router, so only the candidate's own counters show the errors. The forward pass
    // takes longer than the 5 ms that the header allows, in which most of the bodies arrive.
    let green = format!("127.0.0.1:{}", stack.ports().green());
    let text = "not so fine, ".repeat(16);
    let body = serde_json::json!({"texts": vec![text; 64]}).to_string();
    let mut timeouts = 0;
    for _ in 0..500 {
        // The rollback, which may come before the last request, restarts green.
        match post(&green, "/predict", "x-request-timeout-ms: 5", &body).await {
            Ok(504) => timeouts += 1,
            Ok(_) => {}
            Err(_) => break,
        }
        if timeouts == 60 {
            break;
        }
    }
    ensure!(timeouts > 0, "no request took longer than 5 ms");
    let run = Stack::wait_for_exit(deployer, &arguments).await?;
    ensure!(run.code == 20, "{run:?}");
    ensure!(run.stderr.contains("by its own counters, "), "{run:?}");
    traffic.stop().await.ensure_none_failed()
}
