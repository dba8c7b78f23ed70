//! Alerts about colors that differ from what was promoted there.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    adapters::notify::Kind,
    color::Color,
    monitor::{color::index, service::Monitor},
    promoted::Differences,
};

/// Time between two comparisons: files of a large model take long to read.
const BETWEEN_COMPARISONS: Duration = Duration::from_mins(1);

impl Monitor<'_> {
    /// Begins a comparison from time to time, unless one runs.
    pub(super) fn compare_releases(&mut self) {
        let is_recent = |at: Instant| at.elapsed() < BETWEEN_COMPARISONS;
        if self.comparison.is_some() || self.compared.is_some_and(is_recent) {
            return;
        }
        self.compared = Some(Instant::now());
        let (settings, ports) = (self.settings, self.ports);
        let health = self.colors.each_ref().map(|it| it.health().cloned());
        let find = async move |color: Color| {
            let health = health[index(color)].as_ref();
            let found = Differences::find(settings, ports, color, health).await;
            found.into_sentences().collect()
        };
        self.comparison = Some(Box::pin(async move {
            [find(Color::Blue).await, find(Color::Green).await]
        }));
    }

    /// Alerts once about each difference of blue and green.
    pub(super) fn report_changed_releases(&mut self, differences: [Vec<String>; 2]) {
        for (color, found) in Color::BOTH.into_iter().zip(differences) {
            let known = std::mem::take(&mut self.state.changed[index(color)]);
            for text in &found {
                if !known.contains(text) {
                    self.alert(Kind::ReleaseChanged, Some(color), text.clone());
                }
            }
            let changed = known != found;
            self.state.changed[index(color)] = found;
            if changed {
                self.save_state();
            }
        }
    }
}
