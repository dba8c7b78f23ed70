//! The agent's HTTP interface.

use anyhow::{Context as _, ensure};
use end_to_end::eventually;

use super::{
    Result,
    harness::{Router, Store, request},
};

#[tokio::test(flavor = "multi_thread")]
async fn request_without_the_token_is_refused_by_store_and_agent() -> Result {
    let store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    for port in [store.port(), router.stack.ports().page()] {
        for headers in ["", "Authorization: Bearer another-token-12345\r\n"] {
            for path in [
                "/truth",
                "/state",
                "/control/active",
                "/log/access",
                "/other",
            ] {
                let answer = request(port, "GET", path, headers, "").await?;
                ensure!(answer.status == 401, "{path}: {answer:?}");
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agent_serves_its_logs_and_the_control_port() -> Result {
    let store = Store::start().await?;
    let router = Router::start("one", &store).await?;
    router.ask("/to-be-logged").await?;
    eventually("the line is in the log", async || {
        let answer = router.ask_agent("GET", "/log/access", "").await;
        answer.is_ok_and(|it| it.body.contains("/to-be-logged"))
    })
    .await?;
    let answer = router.ask_agent("GET", "/log/access", "").await?;
    let length = answer
        .head
        .lines()
        .find_map(|line| line.strip_prefix("x-log-length: "));
    let length: usize = length.context("no length")?.parse()?;
    let path = format!("/log/access?after={}", length - 2);
    let rest = router.ask_agent("GET", &path, "").await?;
    ensure!(rest.body.starts_with("}\n"), "{rest:?}");
    let answer = router.ask_agent("GET", "/log/secret", "").await?;
    ensure!(answer.status == 404, "{answer:?}");
    let answer = router.ask_agent("GET", "/control/green/health", "").await?;
    ensure!(answer.status == 200 && answer.body == "green", "{answer:?}");
    let answer = router.ask_agent("POST", "/apply", "{}").await?;
    ensure!(answer.status == 400, "{answer:?}");
    Ok(())
}
