//! Problems of the router.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
};

use anyhow::ensure;
use end_to_end::Stack;

use super::{Result, SHORT_BAKE, Stranger, only, wrong};

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
    let wrong = wrong(&stack, &[]).await?;
    ensure!(wrong.len() == 2, "{wrong:#?}");
    let not_in_order = "nginx.conf is not in order: ";
    let last_words = "router       it does not run: process ";
    for (wrong, words) in wrong.iter().zip([not_in_order, last_words]) {
        ensure!(wrong.contains(words), "{words:?} is not in {wrong}");
        ensure!(
            wrong.contains("unknown directive \"no_such_directive\""),
            "{wrong}"
        );
    }
    ensure!(wrong[1].contains("; its last log lines: "), "{wrong:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_flags_that_the_router_does_not_see() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    fs::create_dir(stack.path("elsewhere"))?;
    let elsewhere = ["--set", "router.flags=elsewhere"];
    only(&stack, &elsewhere, &["the router does not see the flags"]).await?;
    fs::write(stack.path("elsewhere/green"), "")?;
    let wrong = wrong(&stack, &elsewhere).await?;
    ensure!(wrong.len() == 2, "{wrong:#?}");
    let words = "elsewhere say green, but the router at";
    ensure!(wrong[1].contains(words), "{wrong:#?}");

    let another = Stack::with_processes("model-server", SHORT_BAKE)?;
    another.expect_exit(0, &["up"]).await?;
    let url = format!("router.url=http://{}", another.router_address());
    only(&stack, &["--set", &url], &["is router.url another router?"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_missing_old_or_invalid_nginx() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    let missing = ["--set", "fleet.process.nginx=no-such-nginx"];
    only(
        &stack,
        &missing,
        &["nginx", "no-such-nginx", "install nginx"],
    )
    .await?;
    // The version of Debian 11 and Ubuntu 22.04.
    let old = stack.path("old-nginx");
    fs::write(&old, "#!/bin/sh\necho 'nginx version: nginx/1.18.0' >&2\n")?;
    fs::set_permissions(&old, Permissions::from_mode(0o755))?;
    let old = format!("fleet.process.nginx={}", old.display());
    let words = ["nginx/1.18.0 is too old", "install nginx 1.22 or later"];
    only(&stack, &["--set", &old], &words).await?;
    let path = stack.path("nginx/control.conf");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, format!("{text}\nno_such_directive on;\n"))?;
    only(
        &stack,
        &[],
        &["nginx", "is not in order", "no_such_directive"],
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_names_a_wrong_clock() -> Result {
    let stack = Stack::with_processes("model-server", SHORT_BAKE)?;
    stack.expect_exit(0, &["up"]).await?;
    // A control port on a machine whose clock is in the year 2001.
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let control = format!("router.control=http://{}", listener.local_addr()?);
    let date = "Date: Mon, 01 Jan 2001 00:00:00 GMT";
    let _control = Stranger::answer(listener, date, "")?;
    let wrong = wrong(&stack, &["--set", &control]).await?.join("\n");
    ensure!(wrong.contains("clock"), "{wrong}");
    ensure!(wrong.contains("s ahead of this one"), "{wrong}");
    Ok(())
}
