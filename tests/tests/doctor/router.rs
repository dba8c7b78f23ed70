//! `deployer doctor` on problems of the router and of nginx.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
};

use anyhow::ensure;
use end_to_end::Stack;

use super::{FixedResponseServer, Result, SHORT_BAKE, ensure_only_finding, wrong_findings};

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_router_that_does_not_restart() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    stack.signal_service("router", "TERM")?;
    stack.wait_until_exited("router").await?;
    let path = stack.path("nginx/control.conf");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, format!("{text}\nno_such_directive on;\n"))?;
    stack.expect_exit(1, &["up"]).await?;
    let findings = wrong_findings(&stack, &[]).await?;
    ensure!(findings.len() == 2, "{findings:#?}");
    let invalid_files = "nginx.conf is invalid: ";
    let stopped_router = "router       it does not run: process ";
    for (finding, expected) in findings.iter().zip([invalid_files, stopped_router]) {
        ensure!(
            finding.contains(expected),
            "{expected:?} is not in {finding}"
        );
        ensure!(
            finding.contains("unknown directive \"no_such_directive\""),
            "{finding}"
        );
    }
    ensure!(
        findings[1].contains("; its last log lines: "),
        "{findings:#?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_flags_that_the_router_does_not_see() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    fs::create_dir(stack.path("elsewhere"))?;
    let elsewhere = ["--set", "router.flags=elsewhere"];
    ensure_only_finding(&stack, &elsewhere, &["the router does not see the flags"]).await?;
    fs::write(stack.path("elsewhere/green"), "")?;
    let findings = wrong_findings(&stack, &elsewhere).await?;
    ensure!(findings.len() == 2, "{findings:#?}");
    let expected = "elsewhere say green, but the router at";
    ensure!(findings[1].contains(expected), "{findings:#?}");

    let another = Stack::with_processes("model-server", SHORT_BAKE)?;
    another.expect_exit(0, &["up"]).await?;
    let url = format!("router.url=http://{}", another.router_address());
    ensure_only_finding(&stack, &["--set", &url], &["is router.url another router?"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_missing_old_or_invalid_nginx() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let missing = ["--set", "fleet.process.nginx=no-such-nginx"];
    ensure_only_finding(
        &stack,
        &missing,
        &["nginx", "no-such-nginx", "install nginx"],
    )
    .await?;
    // Debian 11 and Ubuntu 22.04 have this version.
    let old = stack.path("old-nginx");
    fs::write(&old, "#!/bin/sh\necho 'nginx version: nginx/1.18.0' >&2\n")?;
    fs::set_permissions(&old, Permissions::from_mode(0o755))?;
    let old = format!("fleet.process.nginx={}", old.display());
    let expected = ["nginx/1.18.0 is too old", "install nginx 1.22 or later"];
    ensure_only_finding(&stack, &["--set", &old], &expected).await?;
    let path = stack.path("nginx/control.conf");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, format!("{text}\nno_such_directive on;\n"))?;
    ensure_only_finding(&stack, &[], &["nginx", "is invalid", "no_such_directive"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_a_wrong_clock() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    // A control port whose responses have a date of the year 2001.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let control = format!("router.control=http://{}", listener.local_addr()?);
    let date = "Date: Mon, 01 Jan 2001 00:00:00 GMT";
    let _control = FixedResponseServer::start(listener, date, "")?;
    let findings = wrong_findings(&stack, &["--set", &control])
        .await?
        .join("\n");
    ensure!(findings.contains("clock"), "{findings}");
    ensure!(findings.contains("s ahead of this one"), "{findings}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_router_that_repeats_against_the_setting() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let mut unless_sent = vec!["--set", "service.repeat=unless_sent"];
    let copies = "gates.run has `shadow` and bake.ask_previous is true: both colors";
    let findings = wrong_findings(
        &stack,
        &[&unless_sent[..], &["--set", "gates.run=[\"shadow\"]"]].concat(),
    )
    .await?;
    ensure!(
        findings.len() == 2 && findings[1].contains(copies),
        "{findings:#?}"
    );
    unless_sent.extend(["--set", "bake.ask_previous=false"]);
    let expected = "it repeats failed requests: always; service.repeat is unless_sent";
    ensure_only_finding(
        &stack,
        &unless_sent,
        &["router", expected, "nginx/repeat.conf"],
    )
    .await?;

    stack.expect_exit(0, &["down"]).await?;
    fs::copy(
        stack.path("nginx/repeat.unless_sent.conf"),
        stack.path("nginx/repeat.conf"),
    )?;
    stack.expect_exit(0, &["up"]).await?;
    let findings = wrong_findings(&stack, &unless_sent).await?;
    ensure!(findings.is_empty(), "{findings:#?}");
    let expected = "it repeats failed requests: unless_sent; service.repeat is always";
    ensure_only_finding(&stack, &[], &["router", expected]).await
}
