//! Many viewers of a deployment with many events.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    plain::{PageEvent, PlainClient},
    served::ServedPage,
};

type Result<T = ()> = anyhow::Result<T>;

const VIEWERS: usize = 20;
const EVENTS: usize = 10_000;
/// One event in so many is a note, which the page lists.
const NOTE_INTERVAL: usize = 10;
/// So many events are written at once, and then the next ones after [`PAUSE`].
const AT_ONCE: usize = 20;
const PAUSE: Duration = Duration::from_millis(10);
/// How long the last event may take to reach the last viewer on a busy machine.
const ARRIVAL_LIMIT: Duration = Duration::from_mins(1);
/// How much memory the monitor may take for all of it, in KiB.
const MAX_GROWTH: u64 = 64 << 10;
/// Sections that do not depend on when they are read.
const LASTING: [&str; 5] = ["status", "deployment", "gates", "running", "notes"];
const DEPLOY: [&str; 4] = ["deploy", "v2", "--set", "bake.on_inconclusive=promote"];

/// A position in the live file, in bytes, and when the file had grown to it.
type Written = (u64, Instant);

/// What a viewer received.
struct Viewed {
    events: Vec<PageEvent>,
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_events_reach_twenty_viewers() -> Result {
    let served = ServedPage::start("1s", "").await?;
    served.stack.expect_exit(0, &DEPLOY).await?;
    let key = served.make_key("ann", "act").await?;
    let client = PlainClient::sign_in(served.address(), &key).await?;
    let live_file = LiveFile::begin(&served)?;
    let before = memory(&served, "VmRSS")?;
    let mut viewers = JoinSet::new();
    for viewer in 0..VIEWERS {
        let end = live_file.length_at_the_end;
        // The first viewer's connection breaks in the middle.
        let breaks_at = (viewer == 0).then_some(end / 2);
        viewers.spawn(view(client.clone(), end, breaks_at));
    }
    let written = live_file.write().await?;
    let viewed = timeout(ARRIVAL_LIMIT, viewers.join_all()).await;
    let viewed = viewed.context("the last event did not reach all viewers")?;
    let viewed = viewed.into_iter().collect::<Result<Vec<Viewed>>>()?;
    let growth = memory(&served, "VmHWM")?.saturating_sub(before);

    let complete = Viewed::everything(&client).await?;
    let complete = complete.shown();
    ensure!(
        complete["notes"].contains(&format!("note {EVENTS}")),
        "{complete:?}"
    );
    for viewer in &viewed {
        let shown = viewer.shown();
        for section in LASTING {
            ensure!(
                shown[section] == complete[section],
                "{section}: {} is not {}",
                shown[section],
                complete[section]
            );
        }
    }
    print_figures(&viewed, &written, growth)?;
    ensure!(growth <= MAX_GROWTH, "the monitor took {growth} KiB more");
    served.stop().await
}

/// Follows the page until it shows the live file up to `end`. `breaks_at`: where the connection breaks, and another one goes
/// on.
async fn view(client: PlainClient, end: u64, breaks_at: Option<u64>) -> Result<Viewed> {
    let mut viewed = Viewed { events: Vec::new() };
    for until in breaks_at.into_iter().chain([end]) {
        let last = viewed.events.last().map(|event| event.id.clone());
        viewed.follow(&client, last, until).await?;
    }
    Ok(viewed)
}

impl Viewed {
    /// What a viewer sees who comes now.
    async fn everything(client: &PlainClient) -> Result<Self> {
        view(client.clone(), 0, None).await
    }

    async fn follow(&mut self, client: &PlainClient, last: Option<String>, until: u64) -> Result {
        let (sender, mut events) = mpsc::unbounded_channel();
        let client = client.clone();
        let connection = tokio::spawn(async move { client.follow(last.as_deref(), sender).await });
        while let Some(event) = events.recv().await {
            let is_complete = event.position >= until;
            self.events.push(event);
            if is_complete {
                connection.abort();
                return Ok(());
            }
        }
        connection.await?.context("the stream broke")?;
        anyhow::bail!("the stream ended")
    }

    /// The newest content of each section.
    fn shown(&self) -> BTreeMap<&str, &str> {
        let sections = self.events.iter().flat_map(|event| &event.sections);
        sections
            .map(|(id, html)| (id.as_str(), html.as_str()))
            .collect()
    }
}

/// The live file of a deployment in its bake, as a deployer writes it.
struct LiveFile {
    path: PathBuf,
    lines: Vec<String>,
    length_at_the_end: u64,
}

impl LiveFile {
    /// Begins with the events of the last deployment up to its switch, and with a later name.
    fn begin(served: &ServedPage) -> Result<Self> {
        let directory = served.stack.path("state/live");
        let last = fs::read_dir(&directory)?.next().context("no live file")??;
        let id = last.file_name().into_string().unwrap_or_default();
        let id = id.trim_end_matches(".jsonl");
        let later = format!("9{id}");
        let text = fs::read_to_string(last.path())?.replace(id, &later);
        let mut events = text.lines();
        let mut begun = String::new();
        for line in events.by_ref() {
            begun.extend([line, "\n"]);
            let event: Value = serde_json::from_str(line)?;
            if event["phase"] == "switched" {
                break;
            }
        }
        let path = directory.join(later).with_extension("jsonl");
        fs::write(&path, &begun)?;
        let lines: Vec<String> = (1..=EVENTS).map(line).collect();
        let length: usize = lines.iter().map(String::len).sum();
        Ok(Self {
            path,
            length_at_the_end: (begun.len() + length) as u64,
            lines,
        })
    }

    /// Writes the events. Returns when each was written.
    async fn write(&self) -> Result<Vec<Written>> {
        let mut file = OpenOptions::new().append(true).open(&self.path)?;
        let mut length = file.metadata()?.len();
        let mut written = Vec::new();
        let mut ticks = tokio::time::interval(PAUSE);
        for lines in self.lines.chunks(AT_ONCE) {
            ticks.tick().await;
            for line in lines {
                file.write_all(line.as_bytes())?;
                length += line.len() as u64;
                written.push((length, Instant::now()));
            }
        }
        ensure!(
            length == self.length_at_the_end,
            "another program wrote into the live file"
        );
        Ok(written)
    }
}

/// The line of an event.
fn line(number: usize) -> String {
    let mut event = if number.is_multiple_of(NOTE_INTERVAL) {
        json!({ "event": "note", "text": format!("note {number}") })
    } else {
        json!({
            "event": "bake_observed", "elapsed_seconds": number, "of_seconds": 2 * EVENTS,
            "requests": 100 * number, "failed": 0, "trouble": null,
        })
    };
    event["at"] = json!("2026-01-01T00:00:00Z");
    format!("{event}\n")
}

/// Returns a figure of the monitor's memory, in KiB.
fn memory(served: &ServedPage, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", served.monitor_pid()?))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(words.context("no such figure")?.parse()?)
}

/// Prints how long events took from the file to the viewers. A limit would depend on the machine's speed.
#[expect(
    clippy::print_stderr,
    reason = "a test that passes shows its figures to those who ask for them"
)]
fn print_figures(viewed: &[Viewed], written: &[Written], growth: u64) -> Result {
    let mut delays = Vec::new();
    for viewer in viewed {
        let mut events = viewer.events.iter().peekable();
        for (position, at) in written {
            while events.next_if(|event| event.position < *position).is_some() {}
            let event = events.peek().context("an event is missing")?;
            delays.push(event.received.saturating_duration_since(*at));
        }
    }
    delays.sort();
    let share = |share: usize| delays[(delays.len() - 1) * share / 100];
    let messages: usize = viewed.iter().map(|viewer| viewer.events.len()).sum();
    eprintln!(
        "{EVENTS} events, {VIEWERS} viewers, {messages} messages; from event to viewer: median {:?}, p99 {:?}, longest {:?}; \
         the monitor took {growth} KiB more",
        share(50),
        share(99),
        share(100)
    );
    Ok(())
}
