//! Reporters, and the reports that they write.

mod charts;
mod endings;
mod json_lines;
mod page;
mod record;
mod recorder;
mod reports;
mod terminal;
mod trace;

pub use json_lines::JsonLines;
pub use record::{GateRecord, PhaseRecord, Record, SCHEMA, TrafficSecond};
pub use recorder::Recorder;
pub use reports::{ReportError, Reports};
pub use terminal::Terminal;
pub(crate) use terminal::warn;
pub use trace::{RootIds, TraceReporter};

use crate::event::{Event, Reporter};

/// Passes each event to several reporters, in this order.
pub struct Reporters<'a>(pub Vec<&'a dyn Reporter>);

impl Reporter for Reporters<'_> {
    fn report(&self, event: &Event<'_>) {
        for reporter in &self.0 {
            reporter.report(event);
        }
    }
}
