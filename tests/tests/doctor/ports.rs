//! `deployer doctor` on ports without a listener, or with a listener of another program.

use std::{net::TcpListener, time::Duration};

use anyhow::ensure;
use end_to_end::Stack;

use super::{FixedResponseServer, Result, SHORT_BAKE, ensure_only_finding, wrong_findings};

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_ports_without_a_listener() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let findings = wrong_findings(&stack, &["--fleet", "static"])
        .await?
        .join("\n");
    let router = stack.router_address();
    let expected =
        format!("no process listens at http://{router}, where clients expect the router");
    ensure!(
        findings.contains(&expected),
        "{expected:?} is not in {findings}"
    );
    ensure!(findings.contains("where deployers expect"), "{findings}");
    Ok(())
}

/// Listens on a port that a killed process had. Fails after 10 s.
///
/// The kernel may close the sockets of a killed process a moment after the process has ended, so this retries.
async fn listen_on(port: u16) -> Result<TcpListener> {
    let listen = async {
        loop {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                return listener;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let limit = Duration::from_secs(10);
    Ok(tokio::time::timeout(limit, listen).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_process_on_a_color_port() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.signal_service("green", "KILL")?;
    stack.wait_until_exited("green").await?;
    let listener = listen_on(stack.ports().green()).await?;
    let process = format!("(process {})", std::process::id());
    let expected = ["green", "its port is taken", &process];
    ensure_only_finding(&stack, &["--set", "probe.timeout=500ms"], &expected).await?;

    let json = "Content-Type: application/json";
    let _server = FixedResponseServer::start(listener, json, r#"{"model_version":"v9"}"#)?;
    let expected = ["green", "and yet v9 answers at", &process];
    ensure_only_finding(&stack, &[], &expected).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_process_on_router_ports() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.signal_service("router", "TERM")?;
    stack.wait_until_exited("router").await?;
    let process = format!("(process {})", std::process::id());
    for port in [stack.ports().router(), stack.ports().control()] {
        let _listener = listen_on(port).await?;
        let taken = format!("its port is taken: http://127.0.0.1:{port}: ");
        let expected = [
            "router",
            &taken,
            &process,
            "stop the program that listens there",
        ];
        ensure_only_finding(&stack, &[], &expected).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unprivileged_doctor_names_user_of_a_port() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let _listener = listen_on(stack.ports().green()).await?;
    let doctor = ["--fleet", "process", "doctor"];
    let Some(run) = stack.run_unprivileged_deployer(&doctor, &[]).await? else {
        return Ok(());
    };
    for expected in [
        "its port is taken: a process of user 0 that this user may not look into",
        // This user may not write to the deployer's state directory either.
        "state cannot be written to",
    ] {
        ensure!(
            run.stdout.contains(expected),
            "{expected:?} is not in {run:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_metrics_that_are_not_served() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let port = stack.ports().metrics();
    let address = format!("monitor.metrics=127.0.0.1:{port}");
    let metrics = ["--set", &address, "--set", "probe.timeout=500ms"];
    let not_served = [
        "metrics",
        "no process serves",
        "`deployer monitor` does not run",
    ];
    ensure_only_finding(&stack, &metrics, &not_served).await?;

    let listener = listen_on(port).await?;
    let process = format!("(process {})", std::process::id());
    ensure_only_finding(&stack, &metrics, &["metrics", "is taken", &process]).await?;
    drop(listener);

    let arguments = ["monitor", "--set", &address];
    let monitor = stack.start_deployer(&arguments)?;
    let served = async {
        while !wrong_findings(&stack, &metrics).await?.is_empty() {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), served).await??;
    Stack::signal_deployer(&monitor, "TERM")?;
    let run = Stack::wait_for_exit(monitor, &arguments).await?;
    ensure!(run.code == 0, "{run:?}");
    Ok(())
}
