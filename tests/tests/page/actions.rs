//! What people do with the page's buttons: each ends in real traffic, and in the history.

use std::time::{Duration, Instant};

use anyhow::ensure;
use end_to_end::Stack;
use tokio::process::Child;

use crate::{
    browser::{Browser, browse},
    report::ensure_readable_everywhere,
    served::{ServedPage, act, open_action},
};

type Result<T = ()> = anyhow::Result<T>;

/// Longer than any test waits: only a person ends these bakes.
const ENDLESS: &str = "10m";
const PAUSE: Duration = Duration::from_millis(20);
const DEPLOY: [&str; 2] = ["deploy", "v2"];

/// Fails unless the deployer exits with `code`, and the page and the history name the person and the reason.
async fn ensure_ended(
    served: &ServedPage,
    page: &Browser,
    deployer: Child,
    code: i32,
    words: [&str; 2],
) -> Result {
    let run = Stack::wait_for_exit(deployer, &DEPLOY).await?;
    ensure!(run.code == code, "{run:?}");
    let [status, reason] = words;
    page.wait_for_words("#status", status).await?;
    page.wait_for_words("#history", reason).await?;
    let history = served.stack.expect_exit(0, &["history"]).await?.stdout;
    for words in [reason, "(page)"] {
        ensure!(history.contains(words), "no {words:?} in {history}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_move_traffic_and_end_deployments() -> Result {
    let served = ServedPage::start(ENDLESS, "").await?;
    let traffic = served.stack.start_traffic(4, PAUSE)?;
    let link = served.make_link().await?;
    browse("actions", &[], async |page| {
        page.open(&link).await?;
        page.wait_for_words("#actions", "Actions").await?;

        reject_and_abort(&served, page).await?;
        roll_back_during_the_bake(&served, page).await?;
        promote_early(&served, page).await?;
        traffic.wait_for_requests(traffic.count() + 50).await?;
        roll_back_after_the_promotion(&served, page).await?;
        let moved = Instant::now();
        traffic.wait_for_requests(traffic.count() + 100).await?;
        let log = traffic.snapshot();
        log.between(moved, Instant::now())
            .ensure_answered_only_by("v1")?;
        stand_in(&served, page).await?;
        ensure_readable_everywhere(page).await
    })
    .await?;
    let log = traffic.stop().await;
    log.ensure_none_failed()?;
    served.stop().await
}

async fn reject_and_abort(served: &ServedPage, page: &Browser) -> Result {
    let ask = ["deploy", "v2", "--set", "approval.before=[\"switched\"]"];
    let deployer = served.stack.start_deployer(&ask)?;
    page.wait_for_words("#status", "waits for approval").await?;
    act(page, "reject", "not on a Friday").await?;
    ensure_ended(
        served,
        page,
        deployer,
        10,
        ["v2 is refused", "not on a Friday"],
    )
    .await?;

    let deployer = served.stack.start_deployer(&ask)?;
    page.wait_for_words("#status", "waits for approval").await?;
    act(page, "abort", "the wrong version").await?;
    ensure_ended(
        served,
        page,
        deployer,
        10,
        ["v2 is refused", "the wrong version"],
    )
    .await
}

async fn roll_back_during_the_bake(served: &ServedPage, page: &Browser) -> Result {
    let deployer = served.stack.start_deployer(&DEPLOY)?;
    page.wait_for_words("#status", "has all traffic and bakes")
        .await?;
    act(page, "rollback", "a customer called").await?;
    ensure_ended(
        served,
        page,
        deployer,
        20,
        ["v2 is rolled back", "a customer called"],
    )
    .await
}

async fn promote_early(served: &ServedPage, page: &Browser) -> Result {
    let deployer = served.stack.start_deployer(&DEPLOY)?;
    page.wait_for_words("#status", "has all traffic and bakes")
        .await?;
    // The bake needs some evidence before a person may end it.
    page.wait_until("return Number(document.querySelector('#running').innerText.match(/(\\d+) requests/)?.[1]) > 100")
        .await?;
    act(page, "promote", "seen enough").await?;
    ensure_ended(served, page, deployer, 0, ["v2 is promoted", "seen enough"]).await
}

async fn roll_back_after_the_promotion(served: &ServedPage, page: &Browser) -> Result {
    open_action(page, "rollback").await?;
    page.fill_in("#action-rollback input[name=release]", "v1")
        .await?;
    act(page, "rollback", "wrong answers").await?;
    page.wait_for_words(".notice", "v2 loses the traffic")
        .await?;
    ensure!(served.stack.status().await?["active"] == "green");

    open_action(page, "rollback").await?;
    page.fill_in("#action-rollback input[name=release]", "v2")
        .await?;
    act(page, "rollback", "wrong answers").await?;
    page.wait_for_words(".notice", "rolled back: blue serves v1")
        .await?;
    page.wait_for_words("#history", "wrong answers").await?;
    page.element(".arrow.to-blue").await?;
    ensure!(served.stack.status().await?["active"] == "blue");
    Ok(())
}

async fn stand_in(served: &ServedPage, page: &Browser) -> Result {
    let is_fit =
        async || Ok::<_, anyhow::Error>(served.stack.status().await?["colors"][1]["fit"] == true);
    let before = is_fit().await?;
    act(page, "stand-in", "tried by hand").await?;
    page.wait_for_words(".notice", "green").await?;
    ensure!(
        is_fit().await? != before,
        "the fit flag of green is as before"
    );
    Ok(())
}
