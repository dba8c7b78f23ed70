//! The report of a deployment: one file without external resources.

use std::{fs, time::Duration};

use anyhow::Context as _;
use end_to_end::{BakeDuration, Stack};

use crate::{
    browser::{Browser, Medium, browse},
    served::settings,
};

type Result<T = ()> = anyhow::Result<T>;

/// The width of a small phone, in CSS pixels.
const PHONE: u32 = 360;

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_accessible_on_phone_in_the_dark_and_on_paper() -> Result {
    let stack = Stack::with_processes("faulty-server", BakeDuration(Duration::ZERO))?;
    stack.replace_settings(&settings("2s"))?;
    stack.expect_exit(0, &["up"]).await?;
    let traffic = stack.start_traffic(4, Duration::from_millis(50))?;
    stack.expect_exit(0, &["deploy", "v2"]).await?;
    stack.expect_exit(20, &["deploy", "fails-clients"]).await?;
    traffic.stop().await.ensure_none_failed()?;
    browse("report", &[], async |browser| {
        let mut reports = 0;
        for file in fs::read_dir(stack.path("state/reports"))? {
            let path = file?.path();
            if path.extension().is_some_and(|it| it == "html") {
                let path = path.to_str().context("the path is no text")?;
                browser.open(&format!("file://{path}")).await?;
                ensure_readable_everywhere(browser).await?;
                reports += 1;
            }
        }
        anyhow::ensure!(reports == 2, "{reports} reports");
        Ok(())
    })
    .await
}

/// Fails if a page is not accessible on a screen, on a phone in the dark, or on paper.
pub(crate) async fn ensure_readable_everywhere(browser: &Browser) -> Result {
    for (medium, width) in [
        (Medium::DarkScreen, PHONE),
        (Medium::Paper, 720),
        (Medium::LightScreen, 1000),
    ] {
        browser.show_on(medium, width).await?;
        browser.ensure_not_wider_than_window().await?;
        let found = browser.ensure_accessible().await;
        found.with_context(|| format!("on {medium:?}, {width} pixels wide"))?;
    }
    Ok(())
}
