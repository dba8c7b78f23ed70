//! The pictures of the page, for the README and for people who change its looks.
//!
//! `cargo nextest run --locked --test page --run-ignored only pictures` writes them into `target/page/`. The README's are
//! `page-light.png` and `page-dark.png`, in `docs/images/`.

use std::time::Duration;

use anyhow::ensure;
use end_to_end::Stack;

use crate::{
    browser::{Browser, Medium, browse, picture_path},
    served::{ServedPage, act},
};

type Result<T = ()> = anyhow::Result<T>;

const PAUSE: Duration = Duration::from_millis(40);
/// The gates whose verdicts do not depend on the speed of this machine.
const SETTINGS: &str = r#"
[gates]
run = ["identity", "reachable", "smoke", "golden", "agreement", "load"]

[load]
concurrency = 32
duration = "3s"
timeout = "60s"
max_p99 = "60s"

[bake]
duration = "2m"
interval = "500ms"
negligible = "1h"

[approval]
before = ["switched"]
"#;

/// Takes pictures of the page on all media.
async fn take(page: &Browser, name: &str) -> Result {
    for (medium, width, of) in [
        (Medium::LightScreen, 1000, "light"),
        (Medium::DarkScreen, 1000, "dark"),
        (Medium::LightScreen, 360, "phone"),
        (Medium::Paper, 720, "print"),
    ] {
        page.show_on(medium, width).await?;
        page.save_picture(&picture_path(&format!("{name}-{of}"))?)
            .await?;
    }
    page.show_on(Medium::LightScreen, 1000).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it makes pictures for people, and checks nothing"]
async fn page_pictures_are_written() -> Result {
    let served = ServedPage::start_with(SETTINGS).await?;
    let traffic = served.stack.start_traffic(6, PAUSE)?;
    traffic.wait_for_requests(2_000).await?;
    let key = served.make_key("ann", "act").await?;
    browse("pictures", &[], async |page| {
        page.open(&served.url()).await?;
        take(page, "sign-in").await?;
        served.sign_in(page, &key).await?;
        take(page, "empty").await?;
        for (release, exit_code, end) in [
            ("biased", 10, "is refused"),
            ("fails-clients", 20, "is rolled back"),
            ("v2", 0, "is promoted"),
        ] {
            let deploy = ["deploy", release];
            let user = [("USER", "ci".as_ref())];
            let deployer = served.stack.start_deployer_with(&deploy, &user)?;
            if exit_code != 10 {
                page.wait_for_words("#status", "waits for approval").await?;
                take(page, &format!("{release}-approval")).await?;
                act(page, "approve", "all gates pass, and the flips are right").await?;
                page.wait_for_words("#status", "bakes").await?;
            }
            if exit_code == 0 {
                traffic.wait_for_requests(traffic.count() + 2_500).await?;
                page.open(&served.url()).await?;
                take(page, "bake").await?;
                for (medium, of) in [(Medium::LightScreen, "light"), (Medium::DarkScreen, "dark")] {
                    page.show_on(medium, 1000).await?;
                    page.save_beginning(&picture_path(&format!("page-{of}"))?, 1060)
                        .await?;
                }
                act(page, "promote", "looks good for a while").await?;
            }
            page.wait_for_words("#status", end).await?;
            let run = Stack::wait_for_exit(deployer, &deploy).await?;
            ensure!(run.code == exit_code, "{run:?}");
            page.open(&served.url()).await?;
            take(page, &format!("{release}-end")).await?;
        }
        page.click("form.filters[action='/compare'] button").await?;
        page.element("table.compare").await?;
        take(page, "compare").await
    })
    .await?;
    traffic.stop().await.ensure_none_failed()?;
    served.stop().await
}
