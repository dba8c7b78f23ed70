//! Deployments that wait for approval, and bakes that a person ends early, with real processes.

use std::{ffi::OsStr, time::Duration};

use anyhow::{Context as _, bail, ensure};
use end_to_end::{AlertReceiver, BakeDuration, Stack};
use serde_json::Value;
use tokio::process::Child;

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));
/// A bake that does not end by itself within a test.
const LONG_BAKE: BakeDuration = BakeDuration(Duration::from_mins(5));

const BEFORE_SWITCH: &str = r#"approval.before=["switched"]"#;
const BEFORE_PROMOTION: &str = r#"approval.before=["promoted"]"#;
const BEFORE_BOTH: &str = r#"approval.before=["switched", "promoted"]"#;

type Result<T = ()> = anyhow::Result<T>;

/// The arguments of a deployment with this setting. It is promoted also without clients, and by a slow machine.
fn deploy_with(setting: &str) -> [&str; 8] {
    let (promote, patient) = ("bake.on_inconclusive=promote", "health.stall=30s");
    [
        "deploy", "v2", "--set", promote, "--set", patient, "--set", setting,
    ]
}

/// Waits until the deployment asks for approval before this phase. Returns the question. Fails after a minute.
async fn wait_for_question(stack: &Stack, before: &str) -> Result<Value> {
    let asked = async {
        loop {
            let status = stack.status().await?;
            let waiting = &status["last_deployment"]["waiting"];
            if waiting["before"] == before {
                return anyhow::Ok(waiting.clone());
            }
        }
    };
    if let Ok(asked) = tokio::time::timeout(Duration::from_mins(1), asked).await {
        return asked;
    }
    let last = &stack.status().await?["last_deployment"];
    bail!("the deployment did not ask before {before} within a minute: {last:#}")
}

/// The last entry of the history with an end of a deployment, and the report of that deployment.
async fn last_end(stack: &Stack) -> Result<(Value, Value)> {
    let json = async |arguments: &[&str]| -> Result<Value> {
        let run = stack.expect_exit(0, arguments).await?;
        Ok(serde_json::from_str(&run.stdout)?)
    };
    let history = json(&["history", "--json"]).await?;
    let entries = history["history"].as_array().context("a history")?;
    let end = entries.iter().rev().find(|entry| !entry["id"].is_null());
    let end = end.context("an end")?.clone();
    Ok((end, json(&["report", "--json"]).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn approved_deployment_waits_at_both_points_and_is_promoted() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let receiver = AlertReceiver::start(0).await?;
    let url = receiver.url();
    let environment = [("DEPLOYER_ALERTS_WEBHOOK", OsStr::new(&url))];
    let arguments = deploy_with(BEFORE_BOTH);
    let deployer = stack.start_deployer_with(&arguments, &environment)?;

    let waiting = wait_for_question(&stack, "switched").await?;
    ensure!(stack.status().await?["active"] == "blue");
    // The question is sent while the deployment waits.
    receiver.wait_for_alert("approval_awaited", "green").await?;
    let evidence = waiting["evidence"].as_str().context("evidence")?;
    let status = stack.expect_exit(0, &["status"]).await?.stdout;
    ensure!(status.contains(evidence), "{status}");
    let approve = ["approve", "--reason", "looks right", "--evidence"];
    let wrong = [&approve[..], &["0000000000"]].concat();
    let declined = stack.expect_exit(10, &wrong).await?;
    ensure!(declined.stderr.contains(evidence), "{declined:?}");
    let right = [&approve[..], &[&evidence[..12]]].concat();
    stack.expect_exit(0, &right).await?;

    wait_for_question(&stack, "promoted").await?;
    ensure!(stack.status().await?["active"] == "green");
    let promote = ["promote", "--reason", "in a hurry"];
    let declined = stack.expect_exit(10, &promote).await?;
    ensure!(
        declined.stderr.contains("waits for approval"),
        "{declined:?}"
    );
    let approve = ["approve", "--reason", "it serves well"];
    let (first, second) = tokio::join!(stack.run_deployer(&approve), stack.run_deployer(&approve));
    let mut codes = [first?.code, second?.code];
    codes.sort_unstable();
    ensure!(codes == [0, 10], "{codes:?}");

    let ended = Stack::wait_for_exit(deployer, &arguments).await?;
    ensure!(ended.code == 0, "{ended:?}");
    ensure!(receiver.kinds() == ["approval_awaited", "approval_awaited", "promoted"]);
    let (end, report) = last_end(&stack).await?;
    let reason = end["reason"].as_str().context("reason")?;
    ensure!(reason.contains("approved before switched by "), "{reason}");
    ensure!(reason.contains(": it serves well"), "{reason}");
    let approvals = report["approvals"].as_array().context("approvals")?;
    ensure!(approvals.len() == 2, "{report}");
    for (approval, before) in approvals.iter().zip(["switched", "promoted"]) {
        ensure!(approval["before"] == before, "{approval}");
        ensure!(approval["decision"] == "approved", "{approval}");
        let by = approval["by"].as_str().context("by")?;
        ensure!(by.contains('@'), "{approval}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_candidate_is_refused_or_rolled_back() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let reject = ["reject", "--reason", "not today"];
    let declined = stack.expect_exit(10, &reject).await?;
    ensure!(
        declined.stderr.contains("no deployment is under way"),
        "{declined:?}"
    );
    for (setting, before, code, phase) in [
        (BEFORE_SWITCH, "switched", 10, "refused"),
        (BEFORE_PROMOTION, "promoted", 20, "rolled_back"),
    ] {
        let arguments = deploy_with(setting);
        let deployer = stack.start_deployer(&arguments)?;
        wait_for_question(&stack, before).await?;
        let other = ["reject", "1-v9", "--reason", "not today"];
        let declined = stack.expect_exit(10, &other).await?;
        ensure!(
            declined.stderr.contains("1-v9 is not under way"),
            "{declined:?}"
        );
        stack.expect_exit(0, &reject).await?;
        let ended = Stack::wait_for_exit(deployer, &arguments).await?;
        ensure!(ended.code == code, "{ended:?}");
        ensure!(stack.status().await?["active"] == "blue");
        let (end, report) = last_end(&stack).await?;
        ensure!(end["action"] == phase, "{end}");
        let reason = end["reason"].as_str().context("reason")?;
        ensure!(reason.contains(": not today"), "{reason}");
        ensure!(report["approvals"][0]["decision"] == "rejected", "{report}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_deployer_leaves_no_question() -> Result {
    let stack = Stack::up("model-server", SHORT_BAKE).await?;
    let mut deployer: Child = stack.start_deployer(&deploy_with(BEFORE_SWITCH))?;
    wait_for_question(&stack, "switched").await?;
    deployer.kill().await?;
    let status = stack.status().await?;
    ensure!(status["last_deployment"]["phase"] == "validated");
    ensure!(status["last_deployment"]["waiting"].is_null(), "{status:#}");
    let approve = ["approve", "--reason", "looks right"];
    let declined = stack.expect_exit(10, &approve).await?;
    ensure!(
        declined.stderr.contains("no deployment is under way"),
        "{declined:?}"
    );
    stack.expect_exit(0, &["recover"]).await?;
    let status = stack.status().await?;
    ensure!(
        status["last_deployment"]["phase"] == "refused",
        "{status:#}"
    );
    ensure!(status["active"] == "blue", "{status:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bake_ends_early_by_promote() -> Result {
    let stack = Stack::up("model-server", LONG_BAKE).await?;
    let arguments = deploy_with("approval.before=[]");
    let deployer = stack.start_deployer(&arguments)?;
    stack.wait_for_phase("switched").await?;
    let promote = ["promote", "--reason", "a fix that cannot wait"];
    let promoted = async {
        // Before its first observation, the deployer declines.
        while stack.run_deployer(&promote).await?.code != 0 {}
        anyhow::Ok(())
    };
    let patience = Duration::from_mins(1);
    tokio::time::timeout(patience, promoted).await??;
    let ended = Stack::wait_for_exit(deployer, &arguments).await?;
    ensure!(ended.code == 0, "{ended:?}");
    let (end, _) = last_end(&stack).await?;
    ensure!(end["action"] == "promoted", "{end}");
    let reason = end["reason"].as_str().context("reason")?;
    ensure!(
        reason.contains("ended early by `deployer promote` by "),
        "{reason}"
    );
    ensure!(reason.contains(": a fix that cannot wait"), "{reason}");
    Ok(())
}
