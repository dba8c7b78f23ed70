//! Processes that start, stop, and die.

use anyhow::ensure;
use deployer::ports::TruthStore as _;
use end_to_end::{eventually, send_signal};

use super::{
    Result,
    harness::{FENCE, Router, Store, ensure_closed},
};

#[tokio::test(flavor = "multi_thread")]
async fn empty_volume_fails_closed_until_the_agent_reads_the_truth() -> Result {
    let mut store = Store::prepare()?;
    let mut router = Router::prepare("one", &store).await?;
    // An earlier router left its flag.
    std::fs::create_dir_all(router.stack.path("run/flags"))?;
    std::fs::write(router.stack.path("run/flags/open"), "")?;
    router.run()?;
    router.wait_for_status(503).await?;
    ensure_closed(&router.ask("/health").await?)?;
    ensure!(router.ask_control("/active").await?.body == "blue\n");
    let report = router.report().await?;
    ensure!(!report.open && report.generation.is_none(), "{report:?}");
    store.run().await?;
    router.wait_until_open().await?;
    ensure!(router.ask("/").await?.body == "blue");
    let entries = store.client()?.routers().await?;
    ensure!(
        entries.len() == 1 && entries[0].name == "one",
        "{entries:?}"
    );
    ensure!(entries[0].incarnation == report.incarnation);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn router_of_a_killed_agent_is_closed_and_its_nginx_ends() -> Result {
    let store = Store::start().await?;
    let mut router = Router::start("one", &store).await?;
    router.signal("KILL")?;
    ensure!(router.exited().await?.is_none());
    eventually("the fence process closes it", async || {
        !router.has_open_flag()
    })
    .await?;
    router.wait_for_status(0).await?;
    router.run()?;
    router.wait_until_open().await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_nginx_is_started_again_and_opens_by_reading_the_truth() -> Result {
    let store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    let before = router.report().await?;
    // Its workers outlive it.
    send_signal(&router.nginx()?, "KILL")?;
    eventually("the agent starts anew", async || {
        let report = router.report().await;
        report.is_ok_and(|it| it.incarnation > before.incarnation && it.open)
    })
    .await?;
    router.wait_until_open().await?;
    let incarnation = router.report().await?.incarnation;
    let entries = store.client()?.routers().await?;
    ensure!(entries.len() == 1 && entries[0].incarnation == incarnation);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_agent_finishes_requests_and_unregisters() -> Result {
    let store = Store::start().await?;
    let mut router = Router::start("one", &store).await?;
    let stack = router.stack.ports().router();
    let slow = tokio::spawn(super::harness::request(stack, "GET", "/slow", "", ""));
    router.blue.slow_began.notified().await;
    router.signal("TERM")?;
    eventually("it closes", async || !router.has_open_flag()).await?;
    ensure!(!slow.is_finished());
    router.blue.finish_slow();
    let answer = slow.await??;
    ensure!(answer.status == 200 && answer.body == "blue", "{answer:?}");
    ensure!(router.exited().await? == Some(0));
    ensure!(store.client()?.routers().await?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn router_that_lost_its_registration_closes_and_registers_again() -> Result {
    let store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    let before = router.report().await?.incarnation;
    store.client()?.unregister("one", before).await?;
    eventually("it registers again", async || {
        let Ok(client) = store.client() else {
            return false;
        };
        let entries = client.routers().await.unwrap_or_default();
        entries.iter().any(|it| it.incarnation > before)
    })
    .await?;
    router.wait_until_open().await?;
    router.keeps_status(200, FENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_whose_name_another_agent_took_ends_closed() -> Result {
    let store = Store::start().await?;
    let mut first = Router::start("one", &store).await?;
    let second = Router::start("one", &store).await?;
    ensure!(first.exited().await? == Some(2));
    ensure!(!first.has_open_flag());
    second.keeps_status(200, FENCE).await
}
