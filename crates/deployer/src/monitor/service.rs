//! The monitor: what its rounds and its actions share.

use std::pin::Pin;

use tokio::time::Instant;

use crate::{
    adapters::notify::{Kind, Notifier},
    color::Color,
    config::Settings,
    event::{Event, Reporter},
    examples::Example,
    monitor::{
        color::{MonitoredColor, index},
        health::HealthTracker,
        metrics::Metrics,
        page::feed::PageFeed,
        page_actions::PageInbox,
        router_errors::RouterErrors,
        standby::{ColorMemory, ColorView, LastDeployment},
        state::MonitorState,
    },
    ports::{JournalError, LogCursor, Ports},
    state::{
        journal::Journal,
        lock_holder::{LockHolder, MONITOR},
    },
};

/// A slow action that runs while the checks continue: starting a standby (resolves to its color), or stopping
/// the color that traffic left.
pub(super) type BackgroundJob<'a> = Pin<Box<dyn Future<Output = Option<Color>> + 'a>>;

/// A comparison of both colors with what was promoted there, which runs while the checks continue: hashing the files of a
/// large model takes long. It resolves to the differences of blue and green.
pub(super) type Comparison<'a> = Pin<Box<dyn Future<Output = [Vec<String>; 2]> + 'a>>;

/// The monitor, with what it knows.
pub(super) struct Monitor<'a> {
    pub(super) settings: &'a Settings,
    pub(super) reporter: &'a dyn Reporter,
    pub(super) ports: &'a Ports,
    pub(super) example: Option<&'a Example>,
    pub(super) notifier: &'a Notifier,
    pub(super) router: HealthTracker,
    pub(super) router_errors: RouterErrors,
    pub(super) colors: [MonitoredColor; 2],
    /// The state that the next monitor reads.
    pub(super) state: MonitorState,
    /// What looked interrupted in the last round.
    pub(super) suspect: Option<String>,
    /// Whether a failed failover was reported.
    pub(super) failover_failed: bool,
    /// An action that runs in the background.
    pub(super) job: Option<BackgroundJob<'a>>,
    pub(super) trimmed: Option<Instant>,
    /// A comparison that runs in the background.
    pub(super) comparison: Option<Comparison<'a>>,
    /// When the last comparison began.
    pub(super) compared: Option<Instant>,
    /// Whether the journal could not be read in the last round.
    pub(super) journal_unreadable: bool,
    /// The position in the router's log up to which requests are counted; `None` before the first read.
    pub(super) read_up_to: Option<LogCursor>,
    pub(super) metrics: &'a Metrics,
    /// `None` without a page.
    pub(super) page: Option<PageFeed<'a>>,
    /// What people ask for on the page; `None` without a page.
    pub(super) inbox: Option<PageInbox>,
}

impl<'a> Monitor<'a> {
    /// Returns whether this monitor holds the lock, for its background action.
    pub(super) fn is_this(&self, holder: &LockHolder) -> bool {
        let this = LockHolder::this(MONITOR, holder.since);
        self.job.is_some() && *holder == this
    }

    /// The last deployment that touched a server; `None` if the journal is unreadable.
    pub(super) async fn last_deployment(&self) -> Option<LastDeployment> {
        let entries = self.ports.journal.read().await.ok()?;
        Some(entries.last_deployment())
    }

    /// What is known of a color for a decision; `None` if its fit flag cannot be read: then the
    /// router's state cannot be read either, which is an alert.
    pub(super) async fn view<'b>(
        &self,
        color: Color,
        active: Color,
        last_deployment: &'b LastDeployment,
    ) -> Option<ColorView<'b>> {
        let fit = self.ports.flags.is_fit(color).await.ok()?;
        Some(ColorView {
            active: color == active,
            fit,
            up: self.colors[index(color)].tracker.is_up(),
            last_deployment,
        })
    }

    pub(super) fn color_memory(&self, color: Color) -> &ColorMemory {
        &self.state.colors[index(color)]
    }

    /// Returns the journal, or `None` if another deployer holds the lock.
    pub(super) async fn lock(&self) -> Option<Journal<'a>> {
        lock(self.ports, self.reporter).await
    }

    pub(super) fn alert(&self, kind: Kind, color: Option<Color>, text: String) {
        self.note(text.clone());
        self.notifier
            .alert(kind, self.ports.clock.now(), color, text);
    }

    pub(super) fn note(&self, text: String) {
        self.reporter.report(&Event::Note { text });
    }

    pub(super) fn save_state(&mut self) {
        self.state.saved = self.ports.clock.now();
        if let Err(error) = self.state.write(&self.settings.state) {
            self.note(format!("cannot write the monitor's state: {error}"));
        }
    }
}

/// Takes the lock for the monitor. Returns `None` if another deployer holds it.
pub(super) async fn lock<'a>(ports: &'a Ports, reporter: &dyn Reporter) -> Option<Journal<'a>> {
    match Journal::lock(ports, MONITOR).await {
        Ok(journal) => {
            // Only a killed deployer can have left it.
            if let Ok(Some(by)) = ports.router.abort_prepared().await {
                let text = format!(
                    "a change of the flags was prepared and not decided, and was aborted: {by}"
                );
                reporter.report(&Event::Note { text });
            }
            Some(journal)
        }
        Err(JournalError::Busy { .. }) => None,
        Err(error) => {
            let text = error.to_string();
            reporter.report(&Event::Note { text });
            None
        }
    }
}
