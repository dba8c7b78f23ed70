//! Reporters, and the reports that they write.

pub(crate) mod axes;
mod bars;
pub(crate) mod charts;
pub(crate) mod endings;
pub(crate) mod event_line;
pub(crate) mod figures;
mod json_lines;
pub(crate) mod live;
pub(crate) mod page;
pub(crate) mod phases;
pub(crate) mod progress;
pub(crate) mod record;
mod recorder;
mod reports;
mod terminal;
mod trace;
pub(crate) mod traffic;
pub(crate) mod verdicts;

pub use json_lines::JsonLines;
pub use record::{ApprovalRecord, GateRecord, PhaseRecord, Record, SCHEMA, TrafficSecond};
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
