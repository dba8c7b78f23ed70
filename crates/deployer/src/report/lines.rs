//! Events as JSON, one object a line, for programs. What each holds stands in docs/events.md.

use std::io::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::record::Judged;
use crate::event::{Event, Reporter};

/// Prints one line an event on standard output.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonLines;

impl Reporter for JsonLines {
    fn report(&self, event: &Event<'_>) {
        if let Some(mut line) = line(event) {
            line["at"] = json!(Timestamp::now());
            // A reader that has gone away must not end a deployment.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

/// The event's name and what it says; none for what is no news by itself.
fn line(event: &Event<'_>) -> Option<Value> {
    Some(match event {
        Event::Planned { plan } => json!({"event": "planned", "plan": plan}),
        Event::Resumed { plan, phase, since } => {
            json!({"event": "resumed", "plan": plan, "phase": phase, "since": since})
        }
        Event::Note { text } => json!({"event": "note", "text": text}),
        Event::Waiting { tried, of, reason } => {
            json!({"event": "waiting", "tried": tried, "of": of, "reason": reason})
        }
        Event::Asking { gate } => json!({"event": "asking", "gate": gate}),
        Event::Judged { gate, verdict } => {
            let mut line = json!(Judged::new(gate, None, verdict));
            line["event"] = json!("judged");
            line
        }
        Event::Moved { from, to } => json!({"event": "moved", "from": from, "to": to}),
        Event::Watched {
            elapsed,
            of,
            tally,
            trouble,
        } => json!({
            "event": "watched",
            "elapsed_seconds": elapsed.as_secs_f64(),
            "of_seconds": of.as_secs_f64(),
            "requests": tally.requests,
            "failed": tally.failed,
            "trouble": trouble,
        }),
        Event::Reached { phase, reason } => {
            json!({"event": "reached", "phase": phase, "reason": reason})
        }
        Event::Logged { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        color::Color,
        phase::Phase,
        verdict::{Finding, Verdict},
    };

    #[test]
    fn an_event_is_an_object_that_names_itself() {
        let verdict = Verdict::new(Finding::Pass, "right on 9 of 10 inputs").with("accuracy", 0.9);
        let judged = line(&Event::Judged {
            gate: "golden",
            verdict: &verdict,
        });
        let judged = judged.unwrap();
        assert_eq!(judged["event"], "judged");
        assert_eq!(judged["finding"], "pass");
        assert_eq!(judged["numbers"]["accuracy"], 0.9);
        let (from, to) = (Color::Blue, Color::Green);
        let moved = line(&Event::Moved { from, to });
        assert_eq!(
            moved,
            Some(json!({"event": "moved", "from": "blue", "to": "green"}))
        );
        let ended = line(&Event::Reached {
            phase: Phase::RolledBack,
            reason: Some("it is slow"),
        });
        assert_eq!(ended.unwrap()["phase"], "rolled_back");
    }
}
