//! Consumers of events, and what they leave behind.

mod chart;
mod lines;
mod page;
mod record;
mod recorder;
mod terminal;

pub use lines::JsonLines;
pub use record::{Judged, Reached, Record, SCHEMA, Second};
pub use recorder::{Recorder, ReportError, Reports};
pub use terminal::Terminal;
pub(crate) use terminal::warn;

use crate::event::{Event, Reporter};

/// Tells several reporters, in this order.
pub struct All<'a>(pub Vec<&'a dyn Reporter>);

impl Reporter for All<'_> {
    fn report(&self, event: &Event<'_>) {
        for reporter in &self.0 {
            reporter.report(event);
        }
    }
}
