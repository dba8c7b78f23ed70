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
    /// Alerts once about each difference.
    pub(super) async fn report_changed_releases(&mut self) {
        if self
            .compared
            .is_some_and(|at| at.elapsed() < BETWEEN_COMPARISONS)
        {
            return;
        }
        self.compared = Some(Instant::now());
        for color in Color::BOTH {
            let health = self.colors[index(color)].health();
            let found = Differences::find(self.settings, self.ports, color, health).await;
            let found: Vec<String> = found.into_sentences().collect();
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
