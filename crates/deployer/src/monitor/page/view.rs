//! Everything that the page shows, as values.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    color::Color,
    monitor::page::{figures::Figures, traffic::RecentTraffic},
    ports::RouterStatus,
    report::record::Record,
    state::{history::HistoryEntry, lock_holder::LockHolder},
};

/// Who looks at the page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Viewer<'a> {
    pub(crate) name: &'a str,
    /// Whether the viewer may act, and not only see.
    pub(crate) may_act: bool,
}

/// Which lines of the history to show. A field that is empty selects all.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub(crate) struct HistoryFilter {
    /// The name of an action in files, such as `rolled_back`.
    pub(crate) action: String,
    /// A part of a version.
    pub(crate) version: String,
}

/// Everything that the page shows. Values that are large are shared, because a view is replaced several times a second.
#[derive(Debug, Clone, Default)]
pub(crate) struct PageView {
    /// What the monitor found in its last round.
    pub(crate) round: RoundView,
    /// The holder of the lock.
    pub(crate) holder: Option<LockHolder>,
    /// The active color by the flags.
    pub(crate) active: Option<Color>,
    /// The deployment that runs, or the last one; `None` before the first one.
    pub(crate) deployment: Option<Arc<Record>>,
    /// The position in its live file, in bytes, up to which it is shown.
    pub(crate) position: u64,
}

/// What the monitor finds in a round.
#[derive(Debug, Clone, Default)]
pub(crate) struct RoundView {
    /// When; `None` before the first round.
    pub(crate) checked: Option<Timestamp>,
    /// The model's name.
    pub(crate) model: String,
    /// The router's address for clients.
    pub(crate) router: String,
    /// Why the router does not answer, if it does not.
    pub(crate) router_trouble: Option<String>,
    /// Each of several routers; empty if there is one.
    pub(crate) routers: Vec<RouterStatus>,
    /// Blue and green.
    pub(crate) colors: [ColorCard; 2],
    /// How many requests the router works on; `None` if it does not say.
    pub(crate) in_flight: Option<u64>,
    /// What a killed command left unfinished, in words.
    pub(crate) interrupted: Option<String>,
    /// The color and the version that a rollback would give the traffic to, or why there is none.
    pub(crate) rollback: Rollback,
    pub(crate) traffic: Arc<RecentTraffic>,
    pub(crate) history: Arc<HistoryView>,
}

/// Whether traffic can be rolled back outside of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rollback {
    /// It would go to this color, which serves this version.
    To(Color, String),
    /// It cannot, for this reason.
    Impossible(String),
}

impl Default for Rollback {
    fn default() -> Self {
        Self::Impossible("the monitor has not checked the colors yet".to_owned())
    }
}

/// What is known of a color.
#[derive(Debug, Clone, Default)]
pub(crate) struct ColorCard {
    /// The version that its server reported last.
    pub(crate) version: Option<String>,
    /// The digest that its server reported last.
    pub(crate) digest: Option<String>,
    /// Why its last check failed; `None` if it passed.
    pub(crate) trouble: Option<String>,
    /// Whether it may stand in for the other color; `None` if the flag cannot be read.
    pub(crate) fit: Option<bool>,
    /// Whether a person may let it stand in: it is healthy, and serves a release that was promoted or stood in before.
    pub(crate) is_proven: bool,
}

/// The history, and what follows from it.
#[derive(Debug, Clone, Default)]
pub(crate) struct HistoryView {
    /// Oldest first.
    pub(crate) entries: Vec<HistoryEntry>,
    pub(crate) figures: Figures,
}

impl PageView {
    /// The deployment, if it has not ended.
    pub(crate) fn running(&self) -> Option<&Record> {
        let record = self.deployment.as_deref()?;
        record
            .phase()
            .is_none_or(|phase| !phase.is_end())
            .then_some(record)
    }

    /// The deployment, if a deployer is at work on it.
    pub(crate) fn under_way(&self) -> Option<&Record> {
        let works = self.holder.as_ref().is_some_and(LockHolder::deploys);
        self.running().filter(|_| works)
    }

    pub(crate) fn card(&self, color: Color) -> &ColorCard {
        &self.round.colors[crate::monitor::color::index(color)]
    }
}
