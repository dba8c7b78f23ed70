//! Ports without a listener, or with the wrong one.

use std::{net::TcpListener, time::Duration};

use anyhow::ensure;
use end_to_end::Stack;

use super::{Result, SHORT_BAKE, Stranger, only, wrong};

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_ports_without_a_listener() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let wrong = wrong(&stack, &["--fleet", "static"]).await?.join("\n");
    let router = stack.router_address();
    let words = format!("no process listens at http://{router}, where clients expect the router");
    ensure!(wrong.contains(&words), "{words:?} is not in {wrong}");
    ensure!(wrong.contains("where deployers expect"), "{wrong}");
    Ok(())
}

/// The last thread of a killed process closes its sockets a moment after the process has ended.
async fn listen_on(port: u16) -> Result<TcpListener> {
    let listen = async {
        loop {
            if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
                return listener;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = Duration::from_secs(10);
    Ok(tokio::time::timeout(patience, listen).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_process_on_a_color_port() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.signal_service("green", "KILL")?;
    stack.wait_until_exited("green").await?;
    let stranger = listen_on(stack.ports().green()).await?;
    let process = format!("(process {})", std::process::id());
    let words = ["green", "its port is taken", &process];
    only(&stack, &["--set", "probe.timeout=500ms"], &words).await?;

    let json = "Content-Type: application/json";
    let _stranger = Stranger::answer(stranger, json, r#"{"model_version":"v9"}"#)?;
    let words = ["green", "and yet v9 answers at", &process];
    only(&stack, &[], &words).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_process_on_router_ports() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.signal_service("router", "TERM")?;
    stack.wait_until_exited("router").await?;
    let process = format!("(process {})", std::process::id());
    for port in [stack.ports().router(), stack.ports().control()] {
        let _stranger = listen_on(port).await?;
        let taken = format!("its port is taken: http://127.0.0.1:{port}: ");
        let words = ["router", &taken, &process, "end whatever listens there"];
        only(&stack, &[], &words).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unprivileged_doctor_names_user_of_a_port() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    let _stranger = listen_on(stack.ports().green()).await?;
    let doctor = ["--fleet", "process", "doctor"];
    let Some(run) = stack.run_unprivileged_deployer(&doctor, &[]).await? else {
        return Ok(());
    };
    for words in [
        "its port is taken: a process of user 0 that this user may not look into",
        // This user may not write to the deployer's state directory either.
        "state cannot be written to",
    ] {
        ensure!(run.stdout.contains(words), "{words:?} is not in {run:?}");
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
    let nobody = [
        "metrics",
        "no process serves",
        "`deployer monitor` does not run",
    ];
    only(&stack, &metrics, &nobody).await?;

    let stranger = listen_on(port).await?;
    let process = format!("(process {})", std::process::id());
    only(&stack, &metrics, &["metrics", "is taken", &process]).await?;
    drop(stranger);

    let arguments = ["monitor", "--set", &address];
    let monitor = stack.start_deployer(&arguments)?;
    let served = async {
        while !wrong(&stack, &metrics).await?.is_empty() {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(30), served).await??;
    Stack::signal_deployer(&monitor, "TERM")?;
    let run = Stack::wait_for_exit(monitor, &arguments).await?;
    ensure!(run.code == 0, "{run:?}");
    Ok(())
}
