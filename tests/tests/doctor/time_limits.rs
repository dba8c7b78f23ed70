//! `deployer doctor` on time limits that contradict each other.

use std::{ffi::OsStr, fs};

use anyhow::ensure;
use end_to_end::Stack;

use super::{Result, SHORT_BAKE, ensure_only_finding, wrong_findings};

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_contradicting_settings() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    for (setting, expected) in [
        (
            "load.timeout=5m",
            "load.timeout (5m) is longer than the router waits (2m)",
        ),
        ("headroom.factor=200", "times headroom.factor (200)"),
        ("load.max_p99=30s", "can never be exceeded"),
        ("bake.duration=5s", "a release that hangs is found after"),
    ] {
        ensure_only_finding(&stack, &["--set", setting], &["time limits", expected]).await?;
    }
    Ok(())
}

/// Replaces a text in `limits.conf`.
fn edit_limits(stack: &Stack, from: &str, to: &str) -> Result {
    let path = stack.path("nginx/limits.conf");
    let text = fs::read_to_string(&path)?;
    ensure!(text.contains(from), "{from:?} is not in limits.conf");
    Ok(fs::write(path, text.replace(from, to))?)
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_router_without_time_for_standby() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let limit = "proxy_next_upstream_timeout";
    edit_limits(&stack, &format!("{limit} 130s"), &format!("{limit} 100s"))?;
    stack.expect_exit(0, &["up"]).await?;
    let expected = [
        "time limits",
        "tries no other color after 1m 40s",
        "the standby does not stand in for a color that hangs",
    ];
    ensure_only_finding(&stack, &[], &expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_contradicting_server_time_limits() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    edit_limits(&stack, "proxy_read_timeout 120s", "proxy_read_timeout 99s")?;
    let limits = [
        ("REQUEST_TIMEOUT_SECONDS", OsStr::new("100")),
        ("IDLE_TIMEOUT_SECONDS", OsStr::new("20")),
        ("GRACE_SECONDS", OsStr::new("2")),
    ];
    let up = stack.start_deployer_with(&["up"], &limits)?;
    let run = Stack::wait_for_exit(up, &["up"]).await?;
    ensure!(run.code == 0, "{run:?}");
    let findings = wrong_findings(&stack, &["--set", "fleet.process.stop_timeout=1s"]).await?;
    ensure!(findings.len() == 6, "{findings:#?}");
    let findings = findings.join("\n");
    for color in ["blue", "green"] {
        for limit in [
            "answers within 1m 40s (REQUEST_TIMEOUT_SECONDS), and the router gives up after 1m 39s",
            "closes idle connections after 20s (IDLE_TIMEOUT_SECONDS), and the router uses them for 30s",
            "serves for 2s after a stop signal (GRACE_SECONDS), but is killed after 1s",
        ] {
            let expected = format!("time limits  {color} {limit}");
            ensure!(
                findings.contains(&expected),
                "{expected:?} is not in {findings}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_contradicting_server_defaults() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    edit_limits(&stack, "proxy_read_timeout 120s", "proxy_read_timeout 30s")?;
    stack.expect_exit(0, &["up"]).await?;
    let findings = wrong_findings(&stack, &[]).await?;
    ensure!(findings.len() == 2, "{findings:#?}");
    ensure!(
        findings[0].contains("blue answers within 30s"),
        "{findings:#?}"
    );
    Ok(())
}
