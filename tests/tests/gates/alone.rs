//! Tests of gates that judge speed. No other test may run at the same time.

use anyhow::{Context as _, ensure};
use end_to_end::Stack;
use serde_json::Value;

use super::{
    ALL_GATES, BAKE, CLIENTS, FEW_CLIENTS, Faulty, LONG_PAUSE, PAUSE, Result, deploy,
    ensure_all_refused, ensure_rolled_back, stack_with_embedded_limits, verdicts,
};

#[tokio::test(flavor = "multi_thread")]
async fn good_release_passes_every_gate_and_the_report_shows_it() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    traffic.wait_for_requests(300).await?;
    let report = deploy(&stack, 0, "v2", &[ALL_GATES, "load.concurrency=500"]).await?;
    traffic.stop().await.ensure_none_failed()?;
    let gates = [
        "health",
        "identity",
        "reachable",
        "smoke",
        "golden",
        "agreement",
        "warm",
        "load",
        "comparison",
        "headroom",
        "shadow",
        "bake",
    ];
    ensure!(
        verdicts(&report) == gates.map(|gate| (gate, "pass")),
        "{report:#}"
    );
    let numbers = |gate: &str| {
        let recorded = report["gates"].as_array().into_iter().flatten();
        recorded
            .clone()
            .find(|record| record["gate"] == gate)
            .map(|record| &record["numbers"])
    };
    let golden = numbers("golden").context("the report has no gate golden")?;
    ensure!(
        golden["accuracy"].as_f64() > golden["active_accuracy"].as_f64(),
        "{golden}"
    );
    let load = numbers("load").context("the report has no gate load")?;
    ensure!(
        load["concurrency"] == 500.0 && load["failed"] == 0.0,
        "{load}"
    );
    let shadow = numbers("shadow").context("the report has no gate shadow")?;
    ensure!(shadow["requests"].as_f64() > Some(100.0), "{shadow}");
    ensure!(shadow["client_p99_during_seconds"].is_number(), "{shadow}");
    ensure!(!report["switched"].is_null(), "{report}");
    let seconds = report["traffic"]
        .as_array()
        .context("the report has no traffic")?;
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
async fn release_is_warm_before_its_latency_is_judged() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let gates = r#"gates.run=["warm","comparison"]"#;
    let settings = [gates, "comparison.negligible=100ms"];
    let report = deploy(&stack, 0, "warms-up", &settings).await?;
    let warm = &report["gates"][1];
    ensure!(
        warm["gate"] == "warm" && warm["verdict"] == "pass",
        "{warm}"
    );
    ensure!(warm["warnings"].is_null(), "{warm}");
    let number = |name: &str| warm["numbers"][name].as_f64().unwrap_or_default();
    // The medians of a latency that falls evenly differ by more than noise until it stays.
    ensure!(number("requests") >= 60.0, "{warm}");
    let (first, last) = (number("first_median_seconds"), number("median_seconds"));
    ensure!(first > 0.4 && last < first / 2.0, "{warm}");
    let curve = warm["curve"].as_array().context("no curve")?;
    ensure!(curve.len() as f64 >= number("requests") / 2.0, "{warm}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_that_judge_load_refuse_faulty_releases() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let releases = [
        Faulty {
            version: "breaks-under-load",
            gate: "load",
            settings: &["load.concurrency=150"],
            reason: "; status 500: ",
        },
        Faulty {
            version: "slow-under-load",
            gate: "load",
            settings: &["load.concurrency=150", "load.max_p99=7s"],
            reason: "(at most 7000 ms allowed)",
        },
        Faulty {
            version: "slow",
            gate: "comparison",
            settings: &["comparison.negligible=100ms"],
            reason: "p50 ",
        },
        Faulty {
            version: "rarely-slow",
            gate: "comparison",
            // p99 needs 500 pairs. The duration is long enough for them on a slow machine; the gate ends with them.
            settings: &["comparison.negligible=100ms", "comparison.duration=40s"],
            reason: ", p99 ",
        },
        Faulty {
            version: "stalls-under-load",
            gate: "headroom",
            settings: &["headroom.factor=100", "load.concurrency=500"],
            reason: "is not below the router's proxy_read_timeout, 120 s",
        },
    ];
    ensure_all_refused(&stack, &releases).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_limits_pass_equal_release_and_refuse_one_three_times_as_slow() -> Result {
    let only = ["--only", "identity,load,comparison,headroom", "--json"];
    for (version, code, expected) in [
        (
            "large-model",
            0,
            [
                ("identity", "pass"),
                ("load", "pass"),
                ("comparison", "pass"),
                ("headroom", "pass"),
            ]
            .as_slice(),
        ),
        (
            "three-times-as-slow",
            10,
            [
                ("identity", "pass"),
                ("load", "pass"),
                ("comparison", "fail"),
            ]
            .as_slice(),
        ),
    ] {
        let stack = stack_with_embedded_limits()?;
        let green = format!("green.version={version}");
        let colors = ["--set", "blue.version=large-model", "--set", &green];
        stack
            .expect_exit(0, &[&colors[..], &["up"]].concat())
            .await?;
        let run = stack
            .expect_exit(code, &[&["validate", version], &only[..]].concat())
            .await?;
        let result: Value = serde_json::from_str(run.stdout.lines().last().unwrap_or_default())?;
        ensure!(verdicts(&result) == expected, "{result:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn load_stops_when_clients_of_active_color_wait_too_long() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack
        .expect_exit(0, &["deploy", "slow-after-signal"])
        .await?;
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    traffic.wait_for_requests(300).await?;
    let mut arguments = vec!["validate", "v1", "--only", "load", "--json"];
    for setting in ["load.duration=2m", "load.max_p99=1s"] {
        arguments.extend(["--set", setting]);
    }
    let deployer = stack.start_deployer(&arguments)?;
    traffic.wait_for_requests(traffic.count() + 1_000).await?;
    stack.signal_service("green", "USR1")?;
    let run = Stack::wait_for_exit(deployer, &arguments).await?;
    ensure!(run.code == 10, "{run:?}");
    traffic.stop().await.ensure_none_failed()?;
    let result: Value = serde_json::from_str(run.stdout.lines().last().unwrap_or_default())?;
    ensure!(
        verdicts(&result) == [("load", "inconclusive")],
        "{result:#}"
    );
    let summary = result["gates"][0]["summary"].as_str().unwrap_or_default();
    ensure!(summary.starts_with("stopped after "), "{summary}");
    ensure!(
        summary.contains(" requests to green took longer than 1000 ms"),
        "{summary}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn shadow_refuses_faulty_releases_and_clients_do_not_wait_for_copies() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(FEW_CLIENTS, LONG_PAUSE)?;
    traffic.wait_for_requests(300).await?;
    let releases = [
        Faulty {
            version: "fails-clients",
            gate: "shadow",
            settings: &[],
            reason: "of copies, ",
        },
        Faulty {
            version: "biased-for-clients",
            gate: "shadow",
            settings: &[],
            reason: "its labels are distributed differently",
        },
        Faulty {
            version: "slow-for-clients",
            gate: "shadow",
            settings: &["shadow.negligible=400ms"],
            reason: "; p9",
        },
    ];
    let gates = ensure_all_refused(&stack, &releases).await?;
    traffic.stop().await.ensure_none_failed()?;
    // The copies waited for the slow release. The clients' own requests must not have waited.
    let numbers: &Value = &gates[2]["numbers"];
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
async fn bake_rolls_back_slow_release() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CLIENTS, PAUSE)?;
    let reason = "clients wait longer: p9";
    // Clients that wait send few requests, so the bake must be longer.
    let settings = ["bake.duration=10s"];
    ensure_rolled_back(&stack, &traffic, "slow-for-clients", &settings, reason).await?;
    traffic.stop().await.ensure_none_failed()
}
