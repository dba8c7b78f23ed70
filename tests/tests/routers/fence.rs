//! A router that promised closes itself without news, also if its agent cannot.

use std::time::{Duration, Instant};

use anyhow::ensure;
use deployer::{
    cluster::{
        RouterFlags, Truth,
        message::{Prepare, Undecided},
    },
    color::Color,
};
use end_to_end::eventually;
use serde_json::json;

use super::{
    Result,
    harness::{FENCE, Router, Store, ensure_closed},
};

const GREEN: RouterFlags = RouterFlags {
    active: Color::Green,
    fit_blue: false,
    fit_green: false,
    shadow: false,
};
const PREPARE: Prepare = Prepare {
    generation: 2,
    flags: GREEN,
    must_reach: Some(Color::Green),
    // Longer than that of any router here.
    fence: Duration::from_secs(30),
};

/// Fails unless the router closes, and not before the time of the fence.
async fn ensure_closes(router: &Router, asked: Instant) -> Result {
    router.wait_for_status(503).await?;
    let after = asked.elapsed();
    ensure!(
        after >= FENCE,
        "closed after {after:?}, before the fence's time"
    );
    ensure_closed(&router.ask("/").await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_then_silence_closes_the_router_until_it_reads_the_truth() -> Result {
    let mut store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    store.kill().await?;
    let asked = Instant::now();
    let (status, report) = router.tell("/prepare", &json!(PREPARE)).await?;
    ensure!(status == 200 && report.promised == Some(2), "{report:?}");
    ensure_closes(&router, asked).await?;
    let report = router.report().await?;
    ensure!(!report.open && report.promised == Some(2), "{report:?}");
    // Nothing but reading opens it: the promise again does not.
    let (_, report) = router.tell("/prepare", &json!(PREPARE)).await?;
    ensure!(!report.open, "{report:?}");
    store.run().await?;
    router.wait_until_open().await
}

#[tokio::test(flavor = "multi_thread")]
async fn router_stays_open_while_the_store_or_the_deployer_answers() -> Result {
    let mut store = Store::start().await?;
    let mut router = Router::prepare("one", &store).await?;
    // A busy machine may delay an agent for as long as the fence of the other tests.
    router.fence = 7 * FENCE;
    router.run()?;
    router.wait_until_open().await?;
    store.write(|truth| truth.prepare(GREEN, "a test")).await?;
    let (status, mut report) = router.tell("/prepare", &json!(PREPARE)).await?;
    ensure!(status == 200 && report.promised == Some(2), "{report:?}");
    router.keeps_status(200, 2 * router.fence).await?;
    store.kill().await?;
    let until = Instant::now() + 2 * router.fence;
    while Instant::now() < until {
        let undecided = Undecided {
            generation: 2,
            question: report.question,
        };
        (_, report) = router.tell("/undecided", &json!(undecided)).await?;
        ensure!(report.open, "{report:?}");
        ensure!(router.status().await == 200);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    router.wait_for_status(503).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fence_process_closes_the_router_of_a_frozen_agent() -> Result {
    let store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    store.write(|truth| truth.prepare(GREEN, "a test")).await?;
    let asked = Instant::now();
    let (_, report) = router.tell("/prepare", &json!(PREPARE)).await?;
    ensure!(report.promised == Some(2), "{report:?}");
    router.signal("STOP")?;
    ensure_closes(&router, asked).await?;
    ensure!(router.ask_control("/active").await?.body == "blue\n");
    router.signal("CONT")?;
    router.wait_until_open().await
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_agent_without_a_prepared_change_closes_nothing() -> Result {
    let store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    router.signal("STOP")?;
    router.keeps_status(200, 3 * FENCE).await?;
    router.signal("CONT")
}

#[tokio::test(flavor = "multi_thread")]
async fn store_that_is_away_closes_nothing_without_a_prepared_change() -> Result {
    let mut store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    store.kill().await?;
    router.keeps_status(200, 3 * FENCE).await?;
    store.run().await?;
    // The store has its file.
    let truth = store.write(|truth| truth.decide(GREEN)).await?;
    eventually("it follows", async || {
        router.ask("/").await.is_ok_and(|it| it.body == "green")
    })
    .await?;
    ensure!(router.report().await?.generation == Some(truth.generation));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_that_starts_during_a_change_stays_closed_until_it_is_decided() -> Result {
    let store = Store::start().await?;
    let prepared = store.write(|truth| truth.prepare(GREEN, "a test")).await?;
    let mut router = Router::prepare("one", &store).await?;
    router.run()?;
    router.wait_for_status(503).await?;
    eventually("it obeys", async || {
        router
            .report()
            .await
            .is_ok_and(|it| it.generation == Some(1))
    })
    .await?;
    router.keeps_status(503, FENCE).await?;
    store.write(|_| prepared.decide(GREEN)).await?;
    router.wait_until_open().await?;
    ensure!(router.ask("/").await?.body == "green");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn router_that_cannot_reach_the_candidate_does_not_promise() -> Result {
    let store = Store::start().await?;
    let mut router = Router::prepare("one", &store).await?;
    router.stop_green();
    router.run()?;
    router.wait_until_open().await?;
    let (status, report) = router.tell("/prepare", &json!(PREPARE)).await?;
    ensure!(status == 409 && report.promised.is_none(), "{report:?}");
    ensure!(report.refusal.is_some_and(|it| it.contains("green")));
    router.keeps_status(200, 2 * FENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_moves_the_color_and_an_older_generation_is_refused() -> Result {
    let store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    let moved = Truth::default().decide(GREEN);
    let (status, report) = router.tell("/apply", &json!(moved)).await?;
    ensure!(status == 200 && report.generation == Some(2), "{report:?}");
    ensure!(
        report.active == Some(Color::Green) && report.flags == Some(GREEN),
        "{report:?}"
    );
    ensure!(router.ask("/").await?.body == "green");
    let (status, report) = router.tell("/apply", &json!(Truth::default())).await?;
    ensure!(status == 409 && report.generation == Some(2), "{report:?}");
    ensure!(router.ask("/").await?.body == "green");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn change_of_a_silent_deployer_is_aborted_by_an_agent() -> Result {
    let store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    store.write(|truth| truth.prepare(GREEN, "a test")).await?;
    eventually("the agent aborts it", async || {
        router
            .report()
            .await
            .is_ok_and(|it| it.generation == Some(2))
    })
    .await?;
    ensure!(router.ask("/").await?.body == "blue");
    Ok(())
}
