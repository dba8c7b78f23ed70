//! Events as JSON, one object per line. docs/events.md describes them.

use std::io::Write as _;

use jiff::Timestamp;

use crate::{
    event::{Event, Reporter},
    report::event_line::EventLine,
};

/// Prints one line per event on standard output.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonLines;

impl Reporter for JsonLines {
    fn report(&self, event: &Event<'_>) {
        if let Some(line) = EventLine::of(event, Timestamp::now()) {
            // A closed pipe must not end a deployment.
            let _ = writeln!(std::io::stdout(), "{}", line.json());
        }
    }
}
