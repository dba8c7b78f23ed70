//! Who may see and do what, in a browser and past it.

use anyhow::ensure;
use axum::{Router, response::Html, routing::get};
use tokio::net::TcpListener;

use crate::{
    browser::browse,
    plain::PlainClient,
    report::ensure_readable_everywhere,
    served::{ServedPage, act},
};

type Result<T = ()> = anyhow::Result<T>;

/// What a person promotes without clients.
const DEPLOY: [&str; 4] = ["deploy", "v2", "--set", "bake.on_inconclusive=promote"];

#[tokio::test(flavor = "multi_thread")]
async fn only_people_with_the_role_act_act_and_only_on_the_page_itself() -> Result {
    let served = ServedPage::start("1s", "").await?;
    served.stack.expect_exit(0, &DEPLOY).await?;
    let (ann, sam) = (
        served.make_key("ann", "act").await?,
        served.make_key("sam", "see").await?,
    );
    refuse_requests_by_hand(&served, &ann, &sam).await?;
    browse("access", &["403 (Forbidden)"], async |page| {
        served.sign_in(page, &sam).await?;
        page.wait_for_words("#actions", "You may see, and not act")
            .await?;
        ensure!(page.count("form[action^='/actions/']").await? == 0);
        page.click("form[action='/sign-out'] button").await?;
        page.element("#key").await?;

        served.sign_in(page, &ann).await?;
        page.element("#action-rollback").await?;
        let elsewhere = Elsewhere::start(&served).await?;
        page.open(&elsewhere.url).await?;
        page.click("button").await?;
        page.wait_for_words("body", "comes from another site")
            .await?;
        ensure!(served.stack.status().await?["active"] == "green");

        // The session is still there, and the page works without scripts.
        page.allow_scripts(false).await?;
        page.open(&served.url()).await?;
        page.wait_for_words("#history", "promoted").await?;
        page.wait_for_words("#gates", "smoke").await?;
        act(page, "stand-in", "without a script").await?;
        page.wait_for_words(".notice", "blue").await?;
        page.click("#history a").await?;
        page.wait_for_words("h1", "v2").await?;
        page.allow_scripts(true).await?;
        ensure_readable_everywhere(page).await
    })
    .await?;
    served.stop().await
}

/// Sends what no form sends. Nothing may happen.
async fn refuse_requests_by_hand(served: &ServedPage, ann: &str, sam: &str) -> Result {
    let form = "release=v2&reason=by+hand";
    let origin = served.url();
    let nobody = PlainClient::nobody(served.address());
    let ann = PlainClient::sign_in(served.address(), ann).await?;
    let sam = PlainClient::sign_in(served.address(), sam).await?;
    for (client, origin, words) in [
        (&sam, origin.as_str(), "sam may see, but not act"),
        (&nobody, &origin, "you are not signed in"),
        (&ann, "http://elsewhere.example.com", "another site"),
        (&ann, "null", "another site"),
        (&ann, "", "does not say where it comes from"),
    ] {
        let (status, body) = client.post_from(origin, "/actions/rollback", form).await?;
        ensure!(status == 403 && body.contains(words), "{status} {body}");
    }
    for path in ["/", "/deployments/any", "/compare?left=a&right=b"] {
        let (status, body) = nobody.get(path).await?;
        ensure!(
            (status, body.as_str()) == (303, "to /sign-in"),
            "{status} {body}"
        );
    }
    ensure!(nobody.get("/stream").await?.0 == 403);
    ensure!(served.stack.status().await?["active"] == "green");
    Ok(())
}

/// Another site, whose form is for the page.
struct Elsewhere {
    url: String,
    server: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl Elsewhere {
    async fn start(served: &ServedPage) -> Result<Self> {
        let form = format!(
            "<!DOCTYPE html><title>Elsewhere</title><link rel=icon href=data:,>
            <form method=post action='{}/actions/rollback'>
            <input name=release value=v2><input name=reason value=forged><button>Win</button></form>",
            served.url()
        );
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let routes = Router::new().route("/", get(async move || Html(form)));
        Ok(Self {
            // Another port is another origin, but the same site: only another host is another site.
            url: format!("http://localhost:{port}/"),
            server: tokio::spawn(async move { axum::serve(listener, routes).await }),
        })
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.server.abort();
    }
}
