//! The gates and the bake on real servers. A good release passes all of them, and each of them stops a faulty
//! release.
//!
//! Here only the gate that must refuse a faulty release runs. In [`slow`] all gates run, and only that gate may
//! fail.

mod alone;
mod clients;
mod slow;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use end_to_end::{BakeDuration, Stack, Traffic};
use serde_json::Value;

/// Clients and pause for a few hundred requests per second, which two cores can serve.
const CLIENTS: usize = 16;
const PAUSE: Duration = Duration::from_millis(20);
/// Fewer clients with a longer pause, because the larger model receives a copy of each request.
const FEW_CLIENTS: usize = 8;
const LONG_PAUSE: Duration = Duration::from_millis(80);
/// Long enough for hundreds of requests after the switch.
const BAKE: BakeDuration = BakeDuration(Duration::from_secs(8));
const ALL_GATES: &str = r#"gates.run=["identity","reachable","smoke","golden","agreement","warm","load","comparison","headroom","shadow"]"#;
/// Settings with shorter durations, and with latency limits that a slow machine meets.
const SHORT_GATES: [&str; 6] = [
    "load.duration=2s",
    "load.max_p99=19s",
    "shadow.duration=4s",
    // The candidate's model is larger, the build has little optimization, and the clients share the two cores.
    "comparison.negligible=1s",
    "shadow.negligible=10s",
    "bake.negligible=400ms",
];

type Result<T = ()> = anyhow::Result<T>;

/// Creates a stack whose gates and bake have the limits that the deployer contains.
fn stack_with_embedded_limits() -> Result<Stack> {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.replace_settings("")?;
    Ok(stack)
}

/// Creates a stack with the settings of the checkout.
fn stack_with_shipped_settings() -> Result<Stack> {
    let stack = Stack::with_processes("model-server", BAKE)?;
    let shipped = std::fs::read_to_string(end_to_end::repository().join("deployer.toml"))?;
    stack.replace_settings(&shipped)?;
    Ok(stack)
}

/// Deploys a release. Fails unless the deployer exits with `code` and writes a report. Returns the report as JSON.
async fn deploy(stack: &Stack, code: i32, version: &str, settings: &[&str]) -> Result<Value> {
    let mut arguments = vec!["deploy", version];
    arguments.extend(
        SHORT_GATES
            .iter()
            .chain(settings)
            .flat_map(|setting| ["--set", setting]),
    );
    stack.expect_exit(code, &arguments).await?;
    let run = stack.expect_exit(0, &["report", "--json"]).await?;
    let report: Value = serde_json::from_str(&run.stdout)?;
    let id = report["plan"]["id"]
        .as_str()
        .context("the report has no plan.id")?;
    let page = std::fs::read_to_string(stack.path(&format!("state/reports/{id}.html")))?;
    ensure!(page.contains("</html>"), "{page}");
    Ok(report)
}

/// Returns each gate of a report with its verdict.
fn verdicts(report: &Value) -> Vec<(&str, &str)> {
    report["gates"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|gate| {
            (
                gate["gate"].as_str().unwrap_or_default(),
                gate["verdict"].as_str().unwrap_or_default(),
            )
        })
        .collect()
}

/// A faulty release, and the gate that must refuse it.
struct Faulty<'a> {
    version: &'a str,
    gate: &'a str,
    settings: &'a [&'a str],
    /// A part of the reason for the refusal.
    reason: &'a str,
}

/// Deploys a faulty release with only the gate that must refuse it. Returns that gate's part of the report.
async fn ensure_refused(stack: &Stack, faulty: &Faulty<'_>) -> Result<Value> {
    let active = stack.status().await?["active"].clone();
    let gates = format!("gates.run=[\"{}\"]", faulty.gate);
    let settings = [&[&*gates], faulty.settings].concat();
    let report = deploy(stack, 10, faulty.version, &settings).await?;
    let verdicts = verdicts(&report);
    ensure!(
        verdicts == [("health", "pass"), (faulty.gate, "fail")],
        "{:#}",
        report["gates"]
    );
    let reason = report["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(faulty.reason), "{reason}");
    ensure!(report["switched"].is_null(), "{report}");
    ensure!(stack.status().await?["active"] == active);
    Ok(report["gates"][1].clone())
}

/// Deploys faulty releases one after the other. Fails unless each one's gate refuses it. Returns the gates' parts of
/// the reports.
async fn ensure_all_refused(stack: &Stack, releases: &[Faulty<'_>]) -> Result<Vec<Value>> {
    let (mut gates, mut errors) = (Vec::new(), Vec::new());
    for faulty in releases {
        match ensure_refused(stack, faulty).await {
            Ok(gate) => gates.push(gate),
            Err(error) => errors.push(format!("{}: {error:#}", faulty.version)),
        }
    }
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(gates)
}

/// Deploys a release under traffic. Fails unless the bake rolls it back for this reason.
async fn ensure_rolled_back(
    stack: &Stack,
    traffic: &Traffic,
    version: &str,
    settings: &[&str],
    expected_reason: &str,
) -> Result {
    // The bake compares the candidate with these requests to the active release.
    traffic.wait_for_requests(traffic.count() + 600).await?;
    let report = deploy(stack, 20, version, settings).await?;
    let verdicts = verdicts(&report);
    ensure!(verdicts.last() == Some(&("bake", "fail")), "{verdicts:?}");
    let reason = report["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains(expected_reason), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_that_judge_answers_refuse_faulty_releases() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let releases = [
        Faulty {
            version: "other-digest",
            gate: "identity",
            settings: &[],
            reason: "it reports digest 0",
        },
        Faulty {
            version: "fails-early",
            gate: "smoke",
            settings: &["smoke.max_error_rate=0.05"],
            reason: "5 of 50 requests failed (10.0 %, at most 5.0 % allowed)",
        },
        Faulty {
            version: "fails-early",
            gate: "warm",
            settings: &[],
            reason: " requests failed (9.1 %, at most 5.0 % allowed); for example: ",
        },
        Faulty {
            version: "biased",
            gate: "golden",
            settings: &[],
            reason: "at least 70.0 % needed",
        },
        Faulty {
            version: "v2",
            gate: "agreement",
            settings: &["agreement.min_agreement=0.99"],
            reason: "at least 99.0 % needed",
        },
    ];
    ensure_all_refused(&stack, &releases).await?;
    // The next release is accurate enough by itself, but less accurate than the active one, v2.
    let settings = [
        "bake.duration=1s",
        // Without clients the bake is inconclusive.
        "bake.on_inconclusive=promote",
    ];
    deploy(&stack, 0, "v2", &settings).await?;
    let less_accurate = Faulty {
        version: "every-eighth-wrong",
        gate: "golden",
        settings: &[],
        reason: "; for 99 % certain of ",
    };
    ensure_refused(&stack, &less_accurate).await?;
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
        reason: "the router reaches another server: it reports version v1, but v2 is wanted",
    };
    ensure_refused(&stack, &unreachable).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_label_drift_and_restarts() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CLIENTS, PAUSE)?;
    for (version, reason) in [
        (
            "biased-for-clients",
            "the labels differ from those before the switch: negative 100 %",
        ),
        ("restarts", "so it crashed and was started again"),
    ] {
        ensure_rolled_back(&stack, &traffic, version, &[], reason).await?;
    }
    traffic.stop().await.ensure_none_failed()
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_release_that_refuses_clients_or_answers_nothing() -> Result {
    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(CLIENTS, PAUSE)?;
    for (version, reason) in [
        (
            "refuses-clients",
            "it refuses requests with 422: POST /predict, ",
        ),
        (
            "locks-clients-out",
            "it refuses requests with 401: POST /predict, ",
        ),
        (
            "answers-nothing",
            "its answers have no label: POST /predict, ",
        ),
    ] {
        ensure_rolled_back(&stack, &traffic, version, &[], reason).await?;
    }
    let log = traffic.stop().await;
    let failures = log.failures();
    let expected = ["status 401", "status 422", "the response is not JSON"];
    let is_expected = |failure: &&str| expected.iter().any(|it| failure.starts_with(it));
    ensure!(failures.keys().all(is_expected), "{failures:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_rolls_back_release_on_which_clients_give_up() -> Result {
    // Longer than the previous release takes on a busy machine, and shorter than this one does.
    const TIMEOUT: Duration = Duration::from_millis(500);

    let stack = Stack::with_processes("faulty-server", BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_impatient_traffic(CLIENTS, PAUSE, TIMEOUT)?;
    let reason = "clients give up before an answer: POST /predict, ";
    ensure_rolled_back(&stack, &traffic, "slow-for-clients", &[], reason).await?;
    traffic.stop().await;
    Ok(())
}

/// Deploys a good release behind a router that sends clients to another port after the switch. Fails unless the
/// deployer moves traffic back for this reason.
async fn ensure_switch_is_undone(port: impl FnOnce(&Stack) -> u16, reason: &str) -> Result {
    let stack = Stack::with_processes("model-server", BAKE)?;
    stack.redirect_upstream("green_then_blue", port(&stack))?;
    stack.expect_exit(0, &["up"]).await?;
    let run = stack.expect_exit(20, &["deploy", "v2"]).await?;
    ensure!(run.stderr.contains(reason), "{}", run.stderr);
    ensure!(stack.status().await?["active"] == "blue");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn switch_is_undone_when_another_release_answers() -> Result {
    let reason = "after the switch clients are answered by another release: it reports version v1";
    ensure_switch_is_undone(|stack| stack.ports().blue(), reason).await
}

#[tokio::test(flavor = "multi_thread")]
async fn switch_is_undone_when_clients_get_no_answer() -> Result {
    let reason = "after the switch clients are not answered: ";
    ensure_switch_is_undone(|stack| stack.ports().metrics(), reason).await
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
    let last_line = passed.stdout.lines().last().unwrap_or_default();
    let result: Value = serde_json::from_str(last_line)?;
    ensure!(result["passed"] == true, "{result}");
    ensure!(
        verdicts(&result) == [("identity", "pass"), ("golden", "pass")],
        "{result}"
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
    // If every gate is skipped, nothing is proven, so the command fails.
    let skipped = ["validate", "--only", "shadow", "--set"];
    let skipped = [&skipped[..], &["router.shadow_log="]].concat();
    let skipped = stack.expect_exit(10, &skipped).await?;
    ensure!(
        skipped.stdout.contains("every gate was skipped: shadow"),
        "{}",
        skipped.stdout
    );
    // The gate `headroom` generates its own load, so it needs no clients.
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
    let environment = [("API_KEYS_FILE", keys.as_os_str())];
    let run = async |code: i32, arguments: &[&str]| {
        let child = stack.start_deployer_with(arguments, &environment)?;
        let run = Stack::wait_for_exit(child, arguments).await?;
        ensure!(run.code == code, "{run:?}");
        anyhow::Ok(run)
    };
    run(0, &["up"]).await?;
    let refused = run(10, &["deploy", "v2"]).await?;
    ensure!(refused.stderr.contains("answered 401"), "{refused:?}");
    let gates = r#"gates.run=["smoke","golden","load","comparison"]"#;
    let mut arguments = vec!["deploy", "v2", "--set", gates];
    for setting in SHORT_GATES.iter().chain(&["probe.api_key_file=keys"]) {
        arguments.extend(["--set", setting]);
    }
    let promoted = run(0, &arguments).await?;
    ensure!(
        !format!("{promoted:?}").contains("key-of-the-deployer"),
        "{promoted:?}"
    );
    Ok(())
}
