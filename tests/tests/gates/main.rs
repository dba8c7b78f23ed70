//! The gates and the bake on real servers: a good release passes all of them, and each has a faulty release
//! that fails it.
//!
//! Here each faulty release meets the one gate that must refuse it. In [`slow`] all gates judge it, and only
//! that one must fail.

mod alone;
mod slow;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack, Traffic};
use serde_json::Value;

/// A few hundred requests per second, which leave the cores room.
const CLIENTS: usize = 16;
const PAUSE: Duration = Duration::from_millis(20);
/// Fewer, because the larger model receives a copy of each.
const FEW: usize = 8;
const LONG_PAUSE: Duration = Duration::from_millis(80);
/// Long enough for hundreds of requests before and after the switch.
const BAKE: BakeDuration = BakeDuration(Duration::from_secs(8));
const ALL: &str = r#"gates.run=["identity","reachable","smoke","golden","agreement","load","comparison","headroom","shadow"]"#;
/// The default concurrency for a shorter time.
const SHORT: [&str; 6] = [
    "load.duration=2s",
    "load.max_p99=19s",
    "shadow.duration=4s",
    // A larger model in a build with little optimization, on two cores shared with clients.
    "comparison.negligible=1s",
    "shadow.negligible=10s",
    "bake.negligible=400ms",
];

type Result<T = ()> = anyhow::Result<T>;

/// Deploys a release, and expects this exit code. Returns the report's data.
async fn deploy(stack: &Stack, code: i32, version: &str, settings: &[&str]) -> Result<Value> {
    let mut arguments = vec!["deploy", version];
    arguments.extend(
        SHORT
            .iter()
            .chain(settings)
            .flat_map(|setting| ["--set", setting]),
    );
    stack.expect_exit(code, &arguments).await?;
    let shown = stack.expect_exit(0, &["report", "--json"]).await?;
    let report: Value = serde_json::from_str(&shown.stdout)?;
    let id = report["plan"]["id"].as_str().context("no id")?;
    let page = std::fs::read_to_string(stack.path(&format!("state/reports/{id}.html")))?;
    ensure!(page.contains("</html>"), "{page}");
    Ok(report)
}

/// Each gate with its verdict.
fn findings(report: &Value) -> Vec<(&str, &str)> {
    report["gates"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|judged| {
            (
                judged["gate"].as_str().unwrap_or_default(),
                judged["verdict"].as_str().unwrap_or_default(),
            )
        })
        .collect()
}

/// A faulty release, and the gate that must refuse it.
struct Faulty<'a> {
    version: &'a str,
    gate: &'a str,
    settings: &'a [&'a str],
    because: &'a str,
}

/// Deploys a faulty release with only the gate that must refuse it. Returns that gate's record.
async fn refused(stack: &Stack, faulty: &Faulty<'_>) -> Result<Value> {
    let active = stack.status().await?["active"].clone();
    let gates = format!("gates.run=[\"{}\"]", faulty.gate);
    let settings = [&[&*gates], faulty.settings].concat();
    let report = deploy(stack, 10, faulty.version, &settings).await?;
    let findings = findings(&report);
    ensure!(
        findings == [("health", "pass"), (faulty.gate, "fail")],
        "{:#}",
        report["gates"]
    );
    let reason = report["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(faulty.because), "{reason}");
    ensure!(report["switched"].is_null(), "{report}");
    ensure!(stack.status().await?["active"] == active);
    Ok(report["gates"][1].clone())
}

/// Deploys faulty releases one after the other, and expects their gates to refuse them. Returns the gates'
/// records.
async fn all_refused(stack: &Stack, all: &[Faulty<'_>]) -> Result<Vec<Value>> {
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for faulty in all {
        match refused(stack, faulty).await {
            Ok(judged) => found.push(judged),
            Err(error) => wrong.push(format!("{}: {error:#}", faulty.version)),
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(found)
}

/// Deploys a release under traffic, and expects a rollback.
async fn rolled_back(
    stack: &Stack,
    traffic: &Traffic,
    version: &str,
    settings: &[&str],
    because: &str,
) -> Result {
    // The bake compares with what clients received from the active release.
    traffic.wait_for_requests(traffic.count() + 600).await?;
    let report = deploy(stack, 20, version, settings).await?;
    let findings = findings(&report);
    ensure!(findings.last() == Some(&("bake", "fail")), "{findings:?}");
    let reason = report["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(because), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_that_judge_answers_refuse_faulty_releases() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let all = [
        Faulty {
            version: "other-digest",
            gate: "identity",
            settings: &[],
            because: "it reports digest 0",
        },
        Faulty {
            version: "fails-early",
            gate: "smoke",
            settings: &["smoke.max_error_rate=0.05"],
            because: "5 of 50 requests failed (10.0 %, at most 5.0 % allowed)",
        },
        Faulty {
            version: "biased",
            gate: "golden",
            settings: &[],
            because: "at least 70.0 % needed",
        },
        Faulty {
            version: "v2",
            gate: "agreement",
            settings: &["agreement.min_agreement=0.99"],
            because: "at least 99.0 % needed",
        },
    ];
    all_refused(&stack, &all).await?;
    // The last one is good enough by itself, and worse than the active release.
    let settings = [
        "bake.duration=1s",
        // Without clients, nothing could prove it.
        "bake.on_inconclusive=promote",
    ];
    deploy(&stack, 0, "v2", &settings).await?;
    let worse = Faulty {
        version: "every-eighth-wrong",
        gate: "golden",
        settings: &[],
        because: "; for 99 % certain of ",
    };
    refused(&stack, &worse).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reachable_refuses_a_candidate_that_the_router_does_not_reach() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.redirect_upstream("green", stack.ports().blue())?;
    stack.expect_exit(0, &["up"]).await?;
    let unreachable = Faulty {
        version: "v2",
        gate: "reachable",
        settings: &[],
        because: "the router reaches another server: it reports version v1, but v2 is wanted",
    };
    refused(&stack, &unreachable).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_label_drift_and_restarts() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CLIENTS, PAUSE)?;
    for (version, because) in [
        (
            "biased-for-clients",
            "the labels differ from those before the switch: negative 100 %",
        ),
        ("restarts", "so it crashed and was started again"),
    ] {
        rolled_back(&stack, &traffic, version, &[], because).await?;
    }
    traffic.stop().await.ensure_none_failed()
}

/// Deploys a good release behind a router that sends clients elsewhere after the switch.
async fn led_astray(port: impl FnOnce(&Stack) -> u16, because: &str) -> Result {
    let stack = Stack::with_processes("model-server", BAKE)?;
    stack.redirect_upstream("green_then_blue", port(&stack))?;
    stack.expect_exit(0, &["up"]).await?;
    let run = stack.expect_exit(20, &["deploy", "v2"]).await?;
    ensure!(run.stderr.contains(because), "{}", run.stderr);
    ensure!(stack.status().await?["active"] == "blue");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn switch_is_undone_when_another_release_answers() -> Result {
    let because = "after the switch clients are answered by another release: it reports version v1";
    led_astray(|stack| stack.ports().blue(), because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn switch_is_undone_when_clients_get_no_answer() -> Result {
    let because = "after the switch clients are not answered: ";
    led_astray(|stack| stack.ports().metrics(), because).await
}

#[tokio::test(flavor = "multi_thread")]
async fn inconclusive_bake_follows_settings() -> Result {
    let stack = Stack::with_processes("model-server", BakeDuration(Duration::from_secs(2)))?;
    stack.expect_exit(0, &["up"]).await?;
    for (code, on_inconclusive, version) in [
        (20, "bake.on_inconclusive=rollback", "v2"),
        (0, "bake.on_inconclusive=promote", "v2"),
    ] {
        let run = stack
            .expect_exit(
                code,
                &[
                    "deploy",
                    version,
                    "--set",
                    "bake.min_requests=1000000",
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
async fn validate_runs_single_gates_on_idle_color() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let passed = stack
        .expect_exit(0, &["validate", "--only", "golden,identity", "--json"])
        .await?;
    let last = passed.stdout.lines().last().unwrap_or_default();
    let said: Value = serde_json::from_str(last)?;
    ensure!(said["passed"] == true, "{said}");
    ensure!(
        findings(&said) == [("identity", "pass"), ("golden", "pass")],
        "{said}"
    );
    let other = stack
        .expect_exit(10, &["validate", "v1", "--only", "identity"])
        .await?;
    ensure!(
        other
            .stdout
            .contains("it reports version v2, but v1 is wanted"),
        "{}",
        other.stdout
    );
    // Skipped gates prove nothing.
    let skipped = ["validate", "--only", "shadow", "--set"];
    let skipped = [&skipped[..], &["router.shadow_log="]].concat();
    let skipped = stack.expect_exit(10, &skipped).await?;
    ensure!(
        skipped.stdout.contains("every gate was skipped: shadow"),
        "{}",
        skipped.stdout
    );
    // This gate generates its own load.
    stack
        .expect_exit(0, &["validate", "--only", "headroom"])
        .await?;
    let status = stack.status().await?;
    ensure!(status["active"] == "blue", "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_with_api_keys_are_deployed_only_with_a_key() -> Result {
    let stack = Stack::with_processes("model-server", BakeDuration(Duration::from_secs(2)))?;
    let keys = stack.path("keys");
    std::fs::write(&keys, "# for the deployer\nkey-of-the-deployer\n")?;
    let servers = [("API_KEYS_FILE", keys.as_os_str())];
    let run = async |code: i32, arguments: &[&str]| {
        let child = stack.start_deployer_with(arguments, &servers)?;
        let run = Stack::wait_for_exit(child, arguments).await?;
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
