//! The checks of the browser find what they are there to find.

use anyhow::ensure;
use axum::{Router, http::header::CONTENT_SECURITY_POLICY, response::Html, routing::get};
use tokio::net::TcpListener;

use crate::browser::{Medium, browse};

type Result<T = ()> = anyhow::Result<T>;

/// The image has no alternative text, and the table is wider than a phone.
const FAULTY: &str = r#"<!DOCTYPE html><html lang="en"><head><title>Faulty</title></head>
    <body><main><h1>Faulty</h1><img src="/image"><p id="wide">wide</p>
    <script>document.title = "the script ran"</script></main></body></html>"#;

#[tokio::test(flavor = "multi_thread")]
async fn faulty_page_fails_each_check() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let policy = [(
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'",
    )];
    let routes = Router::new().route("/", get(async move || (policy, Html(FAULTY))));
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    let visited = browse("faulty", &[], async |browser| {
        browser.show_on(Medium::LightScreen, 360).await?;
        browser.open(&url).await?;
        browser.ensure_not_wider_than_window().await?;
        browser.run_script("wide.style.width = '400px'").await?;
        let wide = browser.ensure_not_wider_than_window().await;
        ensure!(format!("{wide:?}").contains("id=\\\"wide\\\""), "{wide:?}");
        // The policy forbids the page's own scripts, and not axe-core.
        let found = browser.ensure_accessible().await;
        ensure!(format!("{found:?}").contains("image-alt"), "{found:?}");
        ensure!(browser.run_script("return document.title").await? == "Faulty");
        Ok(())
    })
    .await;
    server.abort();
    let error = format!("{visited:?}");
    for words in ["script-src 'self'", "img-src"] {
        ensure!(error.contains(words), "{error}");
    }
    Ok(())
}
