//! The page of `deployer monitor`: people sign in and act by forms, and no secret appears anywhere.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use end_to_end::{AlertReceiver, BakeDuration, Stack};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Child,
    time::{Instant, sleep, timeout},
};

const SHORT_BAKE: BakeDuration = BakeDuration(Duration::from_secs(1));
/// The time limit for what the monitor does in a round or two.
const LIMIT: Duration = Duration::from_secs(20);

type Result<T = ()> = anyhow::Result<T>;

/// A response of the page.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    /// The cookie that it sets, as a browser sends it.
    fn cookie(&self) -> Result<String> {
        let mut lines = self.head.lines();
        let line = lines.find_map(|line| line.strip_prefix("set-cookie: "));
        let cookie = line.and_then(|line| line.split(';').next());
        Ok(cookie.context("no cookie is set")?.to_owned())
    }
}

/// A browser of one person.
struct Browser {
    address: String,
    cookie: String,
}

impl Browser {
    fn new(stack: &Stack) -> Self {
        Self {
            address: format!("127.0.0.1:{}", stack.ports().page()),
            cookie: String::new(),
        }
    }

    async fn get(&self, path: &str) -> Result<Answer> {
        self.send(&format!("GET {path}"), "", "").await
    }

    /// Sends a form of the page.
    async fn post(&self, path: &str, body: &str) -> Result<Answer> {
        let headers = format!(
            "Origin: http://{}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n",
            self.address,
            body.len()
        );
        self.send(&format!("POST {path}"), &headers, body).await
    }

    async fn send(&self, line: &str, headers: &str, body: &str) -> Result<Answer> {
        let Self { address, cookie } = self;
        let mut stream = TcpStream::connect(address).await?;
        let request = format!(
            "{line} HTTP/1.1\r\nHost: {address}\r\nCookie: {cookie}\r\nConnection: close\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut response = Vec::new();
        // A stream of events does not end: its beginning is enough.
        let max_wait = if line.ends_with("/stream") {
            Duration::from_secs(1)
        } else {
            LIMIT
        };
        let read = timeout(max_wait, stream.read_to_end(&mut response)).await;
        ensure!(read.is_ok() || line.ends_with("/stream"), "{line} hangs");
        let response = String::from_utf8_lossy(&response);
        let (head, body) = response.split_once("\r\n\r\n").context("no response")?;
        let status = head.split(' ').nth(1).context("no status")?;
        Ok(Answer {
            status: status.parse()?,
            head: head.to_owned(),
            body: body.to_owned(),
        })
    }

    async fn sign_in(&mut self, key: &str) -> Result {
        let answer = self.post("/sign-in", &format!("key={key}")).await?;
        ensure!(answer.status == 303, "{}", answer.body);
        self.cookie = answer.cookie()?;
        Ok(())
    }

    /// Waits until the page has this text, and returns it.
    async fn wait_for(&self, text: &str) -> Result<String> {
        let deadline = Instant::now() + LIMIT;
        loop {
            let page = self.get("/").await?.body;
            if page.contains(text) {
                return Ok(page);
            }
            ensure!(Instant::now() < deadline, "no {text:?} in {page}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Makes a key for a person, by the command that an administrator uses.
async fn make_key(stack: &Stack, name: &str, role: &str) -> Result<String> {
    let arguments = ["page-key", name, "--role", role, "--json"];
    let run = stack.expect_exit(0, &arguments).await?;
    let printed: Value = serde_json::from_str(&run.stdout)?;
    Ok(printed["key"].as_str().context("no key")?.to_owned())
}

/// Makes a one-time link. Returns its path.
async fn make_link(stack: &Stack) -> Result<String> {
    let run = stack.expect_exit(0, &["page-link", "--json"]).await?;
    let printed: Value = serde_json::from_str(&run.stdout)?;
    let link = printed["link"].as_str().context("no link")?;
    let place = link.find("/link/").context("the link has no path")?;
    Ok(link[place..].to_owned())
}

/// Starts a monitor with a page, and waits until it answers.
async fn start_monitor(stack: &Stack, environment: &[(&str, &std::ffi::OsStr)]) -> Result<Child> {
    let page = format!("monitor.page=127.0.0.1:{}", stack.ports().page());
    let arguments = ["monitor", "--set", "monitor.interval=200ms", "--set", &page];
    let monitor = stack.start_deployer_with(&arguments, environment)?;
    let deadline = Instant::now() + LIMIT;
    while Browser::new(stack).get("/sign-in").await.is_err() {
        ensure!(Instant::now() < deadline, "the page does not answer");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(monitor)
}

/// Stops the monitor. Returns what it printed.
async fn stop(monitor: Child) -> Result<String> {
    Stack::signal_deployer(&monitor, "TERM")?;
    let run = Stack::wait_for_exit(monitor, &["monitor"]).await?;
    ensure!(run.code == 0, "{run:?}");
    Ok(run.stdout + &run.stderr)
}

async fn history(stack: &Stack) -> Result<Vec<Value>> {
    let run = stack.expect_exit(0, &["history", "--json"]).await?;
    let printed: Value = serde_json::from_str(&run.stdout)?;
    Ok(printed["history"].as_array().context("no history")?.clone())
}

/// A stack on which green is active with v2, and blue is its standby with v1.
async fn deployed_stack() -> Result<Stack> {
    let stack = Stack::up("faulty-server", SHORT_BAKE).await?;
    fs::create_dir_all(stack.path("secrets"))?;
    deploy(&stack).await?;
    Ok(stack)
}

async fn deploy(stack: &Stack) -> Result {
    let promote = ["--set", "bake.on_inconclusive=promote"];
    let patient = ["--set", "health.stall=30s"];
    let deploy = [&["deploy", "v2"][..], &promote, &patient].concat();
    stack.expect_exit(0, &deploy).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn person_rolls_back_by_a_form_and_is_named_in_the_history() -> Result {
    let stack = deployed_stack().await?;
    let key = make_key(&stack, "ann", "act").await?;
    let monitor = start_monitor(&stack, &[]).await?;
    let mut ann = Browser::new(&stack);
    ann.sign_in(&key).await?;
    ann.wait_for("Roll back").await?;
    for typed in ["v1", "V2", "green"] {
        let body = format!("release={typed}&reason=it+is+slow");
        ann.post("/actions/rollback", &body).await?;
        ann.wait_for("was typed, but v2 loses the traffic").await?;
    }
    ensure!(stack.status().await?["active"] == "green", "traffic moved");
    let traffic = stack.start_traffic(8, Duration::from_millis(20))?;
    traffic.wait_for_requests(100).await?;
    let done = ann
        .post("/actions/rollback", "release=v2&reason=it+is+slow")
        .await?;
    ensure!(done.status == 303, "{}", done.body);
    let shown = ann.get("/").await?.body;
    ensure!(shown.contains("rolled back: blue serves v1"), "{shown}");
    ensure!(shown.contains("deployer recover"), "{shown}");
    traffic.stop().await.ensure_none_failed()?;
    ensure!(stack.status().await?["active"] == "blue", "traffic stayed");
    let last = history(&stack).await?.pop().context("no history")?;
    ensure!(last["action"] == "rolled_back", "{last}");
    ensure!(last["by"] == "ann (page)", "{last}");
    ensure!(last["reason"] == "it is slow", "{last}");
    let again = "release=v1&reason=once+more";
    ann.post("/actions/rollback", again).await?;
    ann.wait_for("nothing to roll back to").await?;
    stop(monitor).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn fit_flag_that_a_person_removed_stays_removed() -> Result {
    let stack = deployed_stack().await?;
    let monitor = start_monitor(&stack, &[]).await?;
    let mut browser = Browser::new(&stack);
    browser.cookie = browser.get(&make_link(&stack).await?).await?.cookie()?;
    let is_fit = async || anyhow::Ok(stack.status().await?["colors"][0]["fit"] == true);
    browser.wait_for("Do not let blue stand in").await?;
    let active = "color=green&fit=false&reason=why+not";
    browser.post("/actions/stand-in", active).await?;
    browser
        .wait_for("green has the traffic, so only blue can stand in")
        .await?;
    browser
        .post("/actions/stand-in", "color=blue&fit=false&reason=it+lies")
        .await?;
    browser.wait_for("blue may not stand in for green").await?;
    ensure!(!is_fit().await?);
    // The monitor restores only a flag that it removed itself, also after a restart.
    stop(monitor).await?;
    let monitor = start_monitor(&stack, &[]).await?;
    browser.wait_for("Let blue stand in").await?;
    sleep(Duration::from_secs(1)).await;
    ensure!(!is_fit().await?, "the monitor restored the flag");
    stack.signal_service("blue", "STOP")?;
    browser
        .post("/actions/stand-in", "color=blue&fit=true&reason=try")
        .await?;
    browser.wait_for("so it may not stand in").await?;
    ensure!(!is_fit().await?);
    stack.signal_service("blue", "CONT")?;
    let deadline = Instant::now() + LIMIT;
    while !is_fit().await? {
        ensure!(Instant::now() < deadline, "blue may not stand in again");
        browser
            .post("/actions/stand-in", "color=blue&fit=true&reason=it+is+well")
            .await?;
    }
    let history = history(&stack).await?;
    let actions: Vec<_> = history.iter().map(|it| it["action"].clone()).collect();
    ensure!(
        actions == ["promoted", "stand_in_off", "stand_in_on"],
        "{history:?}"
    );
    ensure!(history[2]["reason"] == "it is well", "{history:?}");
    stop(monitor).await?;
    Ok(())
}

/// Fails if a file below `directory` has one of these texts.
fn ensure_absent(directory: &Path, secrets: &[(&str, &str)]) -> Result<usize> {
    let mut files = 0;
    let mut left: Vec<PathBuf> = vec![directory.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            for entry in fs::read_dir(&path)? {
                left.push(entry?.path());
            }
            continue;
        }
        // What another program removed meanwhile is no evidence.
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        for (name, secret) in secrets {
            ensure!(!text.contains(secret), "{} has the {name}", path.display());
        }
        files += 1;
    }
    Ok(files)
}

#[tokio::test(flavor = "multi_thread")]
async fn planted_secrets_appear_nowhere() -> Result {
    const API_KEY: &str = "planted-api-key-0123456789";
    const WRONG_KEY: &str = "planted-wrong-key-0123456789";
    const WEBHOOK: &str = "planted-webhook-0123456789";

    let stack = Stack::with_processes("faulty-server", SHORT_BAKE)?;
    let keys = stack.path("secrets/api-keys");
    fs::create_dir_all(stack.path("secrets"))?;
    fs::write(&keys, format!("{API_KEY}\n"))?;
    let receiver = AlertReceiver::start(0).await?;
    // Nothing answers at this path, so the monitor reports that, too.
    let webhook = format!("{}/{WEBHOOK}", receiver.url());
    let environment: [(&str, &std::ffi::OsStr); 3] = [
        ("API_KEYS_FILE", keys.as_ref()),
        ("DEPLOYER_ALERTS_WEBHOOK", webhook.as_ref()),
        ("DEPLOYER_ALERTS_SLACK", webhook.as_ref()),
    ];
    let mut printed = String::new();
    let mut run = async |arguments: &[&str]| {
        let key_file = ["--set", "probe.api_key_file=secrets/api-keys"];
        let arguments = [arguments, &key_file].concat();
        let child = stack.start_deployer_with(&arguments, &environment)?;
        let run = Stack::wait_for_exit(child, &arguments).await?;
        ensure!(run.code == 0, "{run:?}");
        printed.extend([run.stdout, run.stderr]);
        anyhow::Ok(())
    };
    run(&["up"]).await?;
    let monitor = start_monitor(&stack, &environment).await?;
    run(&[
        "deploy",
        "v2",
        "--json",
        "--set",
        "bake.on_inconclusive=promote",
        "--set",
        "health.stall=30s",
    ])
    .await?;
    let key = make_key(&stack, "ann", "act").await?;
    let mut ann = Browser::new(&stack);
    ann.post("/sign-in", &format!("key={WRONG_KEY}")).await?;
    ann.get(&format!("/link/{WRONG_KEY}")).await?;
    ann.sign_in(&key).await?;
    let (_, session) = ann.cookie.split_once('=').context("no cookie")?;
    let session = session.to_owned();
    let link = make_link(&stack).await?;
    let token = link.trim_start_matches("/link/").to_owned();
    let mut pages = ann.get(&link).await?.body;
    ann.post("/actions/stand-in", "color=blue&fit=false&reason=a+reason")
        .await?;
    ann.post("/actions/rollback", "release=v1&reason=a+reason")
        .await?;
    let history = history(&stack).await?;
    let id = history[0]["id"].as_str().context("no deployment")?;
    for path in [
        "/".to_owned(),
        "/stream".to_owned(),
        format!("/deployments/{id}"),
        format!("/compare?left={id}&right={id}"),
        format!("/{WRONG_KEY}"),
    ] {
        let answer = ann.get(&path).await?;
        ensure!(!answer.body.is_empty(), "{path} is empty");
        pages.extend([answer.head, answer.body]);
    }
    run(&["status"]).await?;
    run(&["history"]).await?;
    printed += &stop(monitor).await?;
    let secrets = [
        ("key of the page", &*key),
        ("session", &session),
        ("link", &token),
        ("API key", API_KEY),
        ("wrong key", WRONG_KEY),
        ("webhook", WEBHOOK),
    ];
    for (name, secret) in secrets {
        ensure!(!pages.contains(secret), "a page has the {name}");
        ensure!(!printed.contains(secret), "the deployer printed the {name}");
        let alerts = format!("{:?}", receiver.alerts());
        ensure!(!alerts.contains(secret), "an alert has the {name}");
    }
    let files = ensure_absent(&stack.path("state"), &secrets)?;
    ensure!(files > 5, "the state directory has only {files} files");
    ensure_absent(&stack.path("run/logs"), &secrets)?;
    fs::remove_file(&keys)?;
    ensure_absent(&stack.path("secrets"), &secrets)?;
    // The report of the token by which the log tells the deployer's requests apart stays private, too.
    let own = fs::read_to_string(stack.path("state/token"))?;
    ensure!(
        !pages.contains(own.trim()),
        "a page has the deployer's token"
    );
    Ok(())
}
