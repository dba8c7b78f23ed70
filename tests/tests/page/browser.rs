//! A real browser: Debian's chromium, driven over `WebDriver`.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use axum::http::Method;
use end_to_end::repository;
use fantoccini::{
    Client, ClientBuilder, Locator, elements::Element, error::CmdError,
    wd::WebDriverCompatibleCommand,
};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use url::{ParseError, Url};

use crate::driver::{Driver, START_TIMEOUT};

type Result<T = (), E = anyhow::Error> = std::result::Result<T, E>;

/// The time limit for a condition on a page, and for a run of axe-core: long enough for a machine with other work.
pub(crate) const WAIT_LIMIT: Duration = Duration::from_mins(2);
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The height of a window, in CSS pixels.
const HEIGHT: u32 = 900;

/// What a page is shown on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    LightScreen,
    DarkScreen,
    Paper,
}

/// A browser of its own, without any data of an earlier one. [`browse`] starts and ends it.
pub(crate) struct Browser {
    client: Client,
    /// Ends chromium with itself. It is dropped before the profile, which chromium writes to.
    _driver: Driver,
    _profile: TempDir,
}

/// Starts a browser, and runs `visit` with it.
///
/// Fails if `visit` fails, or if a page wrote an error to the console, which a violation of the Content-Security-Policy
/// does. Errors that contain one of `expected` are no failure. After a failure the page that the browser showed is in
/// `target/page/NAME.png`.
pub(crate) async fn browse<T>(
    name: &str,
    expected: &[&str],
    visit: impl AsyncFnOnce(&Browser) -> Result<T>,
) -> Result<T> {
    let browser = Browser::start().await?;
    let visited = visit(&browser).await;
    let visited = match visited {
        Ok(visited) => browser.ensure_no_error(expected).await.map(|()| visited),
        Err(error) => Err(match browser.console().await {
            Ok(console) => error.context(format!("the console said: {console:#?}")),
            Err(_) => error,
        }),
    };
    let visited = match visited {
        Ok(visited) => Ok(visited),
        Err(error) => {
            let picture = browser.save_picture(&picture_path(name)?).await;
            Err(error.context(match picture {
                Ok(()) => format!("target/page/{name}.png shows the page"),
                Err(error) => format!("no picture of the page: {error:#}"),
            }))
        }
    };
    browser.client.close().await?;
    visited
}

/// Returns where a picture of a page is written.
pub(crate) fn picture_path(name: &str) -> Result<PathBuf> {
    let directory = repository().join("target/page");
    fs::create_dir_all(&directory)?;
    Ok(directory.join(name).with_extension("png"))
}

impl Browser {
    async fn start() -> Result<Self> {
        let profile = tempfile::Builder::new().prefix("chromium-").tempdir()?;
        let driver = Driver::start(profile.path())?;
        let mut capabilities = serde_json::Map::new();
        let mut arguments = vec![
            "--headless".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
            format!("--window-size=1000,{HEIGHT}"),
            "--hide-scrollbars".to_owned(),
            // Chromium does not leave this machine.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
                .to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-sync".to_owned(),
            "--no-first-run".to_owned(),
        ];
        if fs::metadata("/proc/self")?.uid() == 0 {
            // Chromium refuses to run as root in its sandbox.
            arguments.push("--no-sandbox".to_owned());
        }
        capabilities.insert(
            "goog:chromeOptions".to_owned(),
            json!({ "args": arguments }),
        );
        capabilities.insert("goog:loggingPrefs".to_owned(), json!({ "browser": "ALL" }));
        let timeouts = json!({ "script": u64::try_from(WAIT_LIMIT.as_millis())? });
        capabilities.insert("timeouts".to_owned(), timeouts);
        let address = format!("http://127.0.0.1:{}", driver.port);
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let connected = builder.capabilities(capabilities).connect(&address);
        let client = tokio::time::timeout(START_TIMEOUT, connected)
            .await
            .with_context(|| format!("chromium did not start within {START_TIMEOUT:?}"))?
            .context("cannot start chromium: `make test` installs it")?;
        Ok(Self {
            client,
            _driver: driver,
            _profile: profile,
        })
    }

    /// Opens a URL, and waits until the page is loaded.
    pub(crate) async fn open(&self, url: &str) -> Result {
        Ok(self.client.goto(url).await?)
    }

    pub(crate) async fn reload(&self) -> Result {
        Ok(self.client.refresh().await?)
    }

    /// Waits until the page has an element that a CSS selector selects.
    pub(crate) async fn element(&self, selector: &str) -> Result<Element> {
        let wait = self.client.wait().at_most(WAIT_LIMIT).every(POLL_INTERVAL);
        wait.for_element(Locator::Css(selector))
            .await
            .with_context(|| format!("the page has no element {selector}"))
    }

    /// Waits until a script returns true.
    pub(crate) async fn wait_until(&self, script: &str) -> Result {
        let began = Instant::now();
        loop {
            // A page that is being left has no scripts.
            if self
                .client
                .execute(script, vec![])
                .await
                .is_ok_and(|it| it == true)
            {
                return Ok(());
            }
            ensure!(
                began.elapsed() < WAIT_LIMIT,
                "not within {WAIT_LIMIT:?}: {script}"
            );
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until the element that a CSS selector selects shows these words.
    pub(crate) async fn wait_for_words(&self, selector: &str, words: &str) -> Result {
        let script = format!(
            "return document.querySelector({})?.innerText.includes({}) === true",
            json!(selector),
            json!(words)
        );
        let waited = self.wait_until(&script).await;
        if waited.is_err() {
            let text = self.text(selector).await;
            return waited.with_context(|| format!("{selector} says {text:?}"));
        }
        waited
    }

    /// Returns the text of the element that a CSS selector selects, as a person sees it.
    pub(crate) async fn text(&self, selector: &str) -> Result<String> {
        let script = format!(
            "return document.querySelector({}).innerText",
            json!(selector)
        );
        let text = self.client.execute(&script, vec![]).await?;
        Ok(text.as_str().context("the element has no text")?.to_owned())
    }

    /// Types a text into the field that a CSS selector selects, instead of what it has.
    pub(crate) async fn fill_in(&self, selector: &str, text: &str) -> Result {
        let field = self.element(selector).await?;
        field.clear().await?;
        let typed = field.send_keys(text).await;
        typed.with_context(|| format!("cannot type into {selector}"))
    }

    /// Clicks on the element that a CSS selector selects.
    pub(crate) async fn click(&self, selector: &str) -> Result {
        let clicked = self.element(selector).await?.click().await;
        clicked.with_context(|| format!("cannot click on {selector}"))
    }

    /// Returns how many elements of the page a CSS selector selects.
    pub(crate) async fn count(&self, selector: &str) -> Result<usize> {
        Ok(self.client.find_all(Locator::Css(selector)).await?.len())
    }

    /// Runs a script in the page, and returns what it returns.
    pub(crate) async fn run_script(&self, script: &str) -> Result<Value> {
        Ok(self.client.execute(script, vec![]).await?)
    }

    /// Shows the page on a medium. `width`: of the window, in CSS pixels.
    pub(crate) async fn show_on(&self, medium: Medium, width: u32) -> Result {
        let (media, scheme) = match medium {
            Medium::LightScreen => ("screen", "light"),
            Medium::DarkScreen => ("screen", "dark"),
            Medium::Paper => ("print", "light"),
        };
        let features = json!([
            { "name": "prefers-color-scheme", "value": scheme },
            // A picture must not show a movement.
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ]);
        let media = json!({ "media": media, "features": features });
        self.developer_command("Emulation.setEmulatedMedia", media)
            .await?;
        self.set_window(&json!(width), &json!(HEIGHT)).await
    }

    /// Lets pages run scripts, or forbids it.
    pub(crate) async fn allow_scripts(&self, allowed: bool) -> Result {
        let disabled = json!({ "value": !allowed });
        self.developer_command("Emulation.setScriptExecutionDisabled", disabled)
            .await?;
        Ok(())
    }

    /// Writes a picture of the whole page, in a window as wide as the last one.
    pub(crate) async fn save_picture(&self, path: &Path) -> Result {
        const SIZE: &str =
            "const page = document.documentElement; return [page.clientWidth, page.scrollHeight]";

        let size = self.client.execute(SIZE, vec![]).await?;
        self.set_window(&size[0], &size[1]).await?;
        fs::write(path, self.client.screenshot().await?)?;
        self.set_window(&size[0], &json!(HEIGHT)).await
    }

    /// Writes a picture of the page's beginning, 1000 pixels wide.
    pub(crate) async fn save_beginning(&self, path: &Path, height: u32) -> Result {
        self.set_window(&json!(1000), &json!(height)).await?;
        Ok(fs::write(path, self.client.screenshot().await?)?)
    }

    async fn set_window(&self, width: &Value, height: &Value) -> Result {
        let size =
            json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.developer_command("Emulation.setDeviceMetricsOverride", size)
            .await?;
        Ok(())
    }

    /// Fails if axe-core finds something that a person who cannot see well, or has no mouse, cannot use.
    pub(crate) async fn ensure_accessible(&self) -> Result {
        const RUN: &str = "
            const done = arguments[arguments.length - 1];
            axe.run({ resultTypes: ['violations'] }).then(
                found => done(found.violations.flatMap(rule => rule.nodes.map(
                    node => `${rule.id}: ${rule.help}: ${node.html.slice(0, 200)}: ${node.failureSummary}`))),
                error => done([String(error)]));";

        self.client.execute(&axe()?, vec![]).await?;
        let found = self.client.execute_async(RUN, vec![]).await?;
        ensure!(found == json!([]), "axe-core found: {found:#}");
        Ok(())
    }

    /// Fails if the page is wider than the window.
    pub(crate) async fn ensure_not_wider_than_window(&self) -> Result {
        const WIDE: &str = "
            const width = document.documentElement.clientWidth;
            if (document.documentElement.scrollWidth <= width) return [];
            return [...document.querySelectorAll('body *')]
                .filter(it => it.getBoundingClientRect().right > width)
                .map(it => it.outerHTML.slice(0, 200));";

        let wide = self.client.execute(WIDE, vec![]).await?;
        ensure!(
            wide == json!([]),
            "these elements are wider than the window: {wide:#}"
        );
        Ok(())
    }

    /// Fails if a page wrote an error to the console since the last call. Errors that contain one of `expected` are no
    /// failure.
    pub(crate) async fn ensure_no_error(&self, expected: &[&str]) -> Result {
        let mut errors = self.console().await?;
        errors.retain(|error| {
            error.starts_with("SEVERE") && !expected.iter().any(|words| error.contains(words))
        });
        ensure!(
            errors.is_empty(),
            "errors in the browser's console: {errors:#?}"
        );
        Ok(())
    }

    /// Returns what pages wrote to the console since the last call.
    async fn console(&self) -> Result<Vec<String>> {
        let log = self.issue("se/log", json!({ "type": "browser" })).await?;
        let lines = log.as_array().context("the browser has no log")?.iter();
        let words = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        Ok(lines
            .map(|line| [words(line, "level"), words(line, "message")].join(" "))
            .collect())
    }

    /// Sends a command of the Chrome `DevTools` Protocol.
    async fn developer_command(&self, command: &str, parameters: Value) -> Result<Value> {
        let body = json!({ "cmd": command, "params": parameters });
        Ok(self.issue("goog/cdp/execute", body).await?)
    }

    async fn issue(&self, path: &'static str, body: Value) -> Result<Value, CmdError> {
        self.client.issue_cmd(ChromiumCommand { path, body }).await
    }
}

/// A command that only chromedriver has.
#[derive(Debug)]
struct ChromiumCommand {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for ChromiumCommand {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, ParseError> {
        base.join(&format!(
            "session/{}/{}",
            session.unwrap_or_default(),
            self.path
        ))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

/// Returns the source of axe-core.
fn axe() -> Result<String> {
    let pattern = repository().join("target/tools/lib");
    let mut versions = fs::read_dir(&pattern)
        .with_context(|| format!("no {}: run scripts/setup test", pattern.display()))?;
    let axe = versions.find_map(|python| {
        let path = python
            .ok()?
            .path()
            .join("site-packages/axe_playwright_python/axe.min.js");
        fs::read_to_string(path).ok()
    });
    axe.context("axe-core is not installed: run scripts/setup test")
}
