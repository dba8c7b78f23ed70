//! Deployments that people follow on the page from the beginning to the end.

use std::time::{Duration, Instant};

use anyhow::ensure;
use end_to_end::Stack;

use crate::{
    browser::{Browser, WAIT_LIMIT, browse},
    report::ensure_readable_everywhere,
    served::{ServedPage, act, open_action},
};

type Result<T = ()> = anyhow::Result<T>;

const PAUSE: Duration = Duration::from_millis(20);
const APPROVAL: &str = "[approval]\nbefore = [\"switched\"]\n";
/// What a browser says while the monitor is gone, and of a key that is not known.
const EXPECTED: [&str; 3] = [
    "ERR_CONNECTION_REFUSED",
    "ERR_INCOMPLETE_CHUNKED_ENCODING",
    "403 (Forbidden)",
];
/// A page that was loaded again has lost this mark.
const MARK: &str = "window.isMarked = true";

/// The sections that all viewers see alike.
const SAME_FOR_ALL: &str = "return ['status', 'deployment', 'gates', 'notes', 'history']
    .map(id => document.getElementById(id).innerText).join('\\n---\\n')";

async fn ensure_never_reloaded(browser: &Browser) -> Result {
    let is_marked = browser
        .run_script("return window.isMarked === true")
        .await?;
    ensure!(is_marked == true, "the page was loaded again");
    Ok(())
}

/// Waits until two viewers see the same.
async fn wait_until_same(left: &Browser, right: &Browser) -> Result {
    let began = Instant::now();
    loop {
        let [left, right] = [
            left.run_script(SAME_FOR_ALL).await?,
            right.run_script(SAME_FOR_ALL).await?,
        ];
        if left == right {
            return Ok(());
        }
        ensure!(began.elapsed() < WAIT_LIMIT, "{left:#} is not {right:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_are_followed_by_two_viewers_through_a_restart_of_the_monitor() -> Result {
    let mut served = ServedPage::start("3s", APPROVAL).await?;
    let traffic = served.stack.start_traffic(4, PAUSE)?;
    let (ann, sam) = (
        served.make_key("ann", "act").await?,
        served.make_key("sam", "see").await?,
    );
    browse("ann", &EXPECTED, async |page| {
        browse("sam", &EXPECTED, async |other| {
            sign_in_with_a_wrong_key(&served, page).await?;
            served.sign_in(page, &ann).await?;
            served.sign_in(other, &sam).await?;
            page.wait_for_words("#status", "Nothing was deployed yet")
                .await?;
            other.run_script(MARK).await?;
            follow_a_good_release(&mut served, page, other).await?;
            follow_a_bad_release(&served, page, other).await?;
            ensure_never_reloaded(other).await?;
            ensure_readable_everywhere(other).await
        })
        .await
    })
    .await?;
    traffic.stop().await.ensure_none_failed()?;
    served.stop().await
}

async fn sign_in_with_a_wrong_key(served: &ServedPage, page: &Browser) -> Result {
    page.open(&served.url()).await?;
    ensure_readable_everywhere(page).await?;
    page.fill_in("#key", "page-not-a-key").await?;
    page.click("form.sign-in button").await?;
    page.wait_for_words("[role=alert]", "not known").await
}

async fn follow_a_good_release(served: &mut ServedPage, page: &Browser, other: &Browser) -> Result {
    let deploy = ["deploy", "v2"];
    let deployer = served.stack.start_deployer(&deploy)?;
    for viewer in [page, other] {
        viewer
            .wait_for_words("#status", "v2 waits for approval")
            .await?;
        viewer.wait_for_words("#gates", "smoke").await?;
    }
    page.reload().await?;
    page.wait_for_words("#status", "v2 waits for approval")
        .await?;

    // What a person types outlives changes of the page, and a restart of the monitor.
    open_action(page, "approve").await?;
    let reason = "#action-approve input[name=reason]";
    page.fill_in(reason, "looks good to me").await?;
    served.kill_monitor().await?;
    for viewer in [page, other] {
        viewer
            .wait_for_words("#connection", "Connection lost")
            .await?;
    }
    served.start_monitor().await?;
    for viewer in [page, other] {
        viewer
            .wait_until("return document.getElementById('connection').innerText === ''")
            .await?;
    }
    let typed = page.element(reason).await?.prop("value").await?;
    ensure!(typed.as_deref() == Some("looks good to me"), "{typed:?}");
    wait_until_same(page, other).await?;

    page.click("#action-approve button").await?;
    page.wait_for_words(".notice", "approve").await?;
    page.run_script(MARK).await?;
    for viewer in [page, other] {
        viewer.wait_for_words("#status", "v2 is promoted").await?;
        viewer.wait_for_words("#history", "promoted").await?;
        viewer.element(".arrow.to-green").await?;
    }
    let run = Stack::wait_for_exit(deployer, &deploy).await?;
    ensure!(run.code == 0, "{run:?}");
    ensure_never_reloaded(page).await?;
    wait_until_same(page, other).await?;
    other.wait_for_words("#deployment", "ann (page)").await?;
    other
        .wait_for_words("#deployment", "looks good to me")
        .await
}

async fn follow_a_bad_release(served: &ServedPage, page: &Browser, other: &Browser) -> Result {
    let deploy = ["deploy", "fails-clients"];
    let deployer = served.stack.start_deployer(&deploy)?;
    page.wait_for_words("#status", "fails-clients waits for approval")
        .await?;
    act(page, "approve", "the gates are green").await?;
    page.wait_for_words(".notice", "approve").await?;
    page.run_script(MARK).await?;
    for viewer in [page, other] {
        viewer
            .wait_for_words("#status", "fails-clients is rolled back")
            .await?;
        viewer.wait_for_words("#history", "rolled back").await?;
    }
    let run = Stack::wait_for_exit(deployer, &deploy).await?;
    ensure!(run.code == 20, "{run:?}");
    ensure_never_reloaded(page).await?;
    wait_until_same(page, other).await
}
