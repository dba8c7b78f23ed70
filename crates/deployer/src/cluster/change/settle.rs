//! Waits until every router obeys a decision, or cannot serve what was before it.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    cluster::{message::RouterReport, truth::Truth},
    ports::RouterEntry,
};

/// What became of each router after a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Settled {
    /// Their nginx confirmed the decision.
    pub confirmed: Vec<String>,
    /// They said that they are closed. They open with the decision.
    pub closed: Vec<String>,
    /// They unregistered. An agent closes its router before it unregisters.
    pub gone: Vec<String>,
    /// They were silent for 1.1 T. After a fenced change the fence has closed them; after another change they may still
    /// serve the flags before it.
    pub waited_out: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fate {
    Confirmed,
    Closed,
    Gone,
}

/// The wait after a decision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Settle {
    truth: Truth,
    /// Messages from this number on were sent after the decision was known.
    first_number: u64,
    until: Duration,
    fates: BTreeMap<String, Option<Fate>>,
}

impl Settle {
    pub(super) fn new(
        truth: Truth,
        routers: impl Iterator<Item = String>,
        first_number: u64,
        until: Duration,
    ) -> Self {
        let fates = routers.map(|name| (name, None)).collect();
        Self {
            truth,
            first_number,
            until,
            fates,
        }
    }

    pub(super) fn truth(&self) -> &Truth {
        &self.truth
    }

    pub(super) fn reported(&mut self, router: &str, number: u64, report: &RouterReport) {
        let Some(fate) = self.fates.get_mut(router) else {
            return;
        };
        if report.generation >= Some(self.truth.generation) {
            *fate = Some(Fate::Confirmed);
        } else if number >= self.first_number && !report.open && fate.is_none() {
            *fate = Some(Fate::Closed);
        }
    }

    pub(super) fn listed(&mut self, entries: &[RouterEntry]) {
        for (name, fate) in &mut self.fates {
            if fate.is_none() && entries.iter().all(|entry| entry.name != *name) {
                *fate = Some(Fate::Gone);
            }
        }
    }

    /// Returns the routers that must still be told.
    pub(super) fn unsettled(&self) -> Vec<String> {
        self.names(None)
    }

    /// Returns what became of the routers once each is settled or the time is up.
    pub(super) fn finished(&self, now: Duration) -> Option<Settled> {
        let waited_out = self.unsettled();
        (waited_out.is_empty() || now >= self.until).then(|| Settled {
            confirmed: self.names(Some(Fate::Confirmed)),
            closed: self.names(Some(Fate::Closed)),
            gone: self.names(Some(Fate::Gone)),
            waited_out,
        })
    }

    fn names(&self, wanted: Option<Fate>) -> Vec<String> {
        let with_fate = self.fates.iter().filter(|(_, fate)| **fate == wanted);
        with_fate.map(|(name, _)| name.clone()).collect()
    }
}
