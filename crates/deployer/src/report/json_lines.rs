//! Events as JSON, one object per line. docs/events.md describes them.

use std::io::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    event::{Event, Reporter},
    report::record::GateRecord,
};

/// Prints one line per event on standard output.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonLines;

impl Reporter for JsonLines {
    fn report(&self, event: &Event<'_>) {
        if let Some(mut line) = line(event) {
            line["at"] = json!(Timestamp::now());
            // A closed pipe must not end a deployment.
            let _ = writeln!(std::io::stdout(), "{line}");
        }
    }
}

/// The JSON object of an event; `None` for events that programs do not receive.
fn line(event: &Event<'_>) -> Option<Value> {
    Some(match event {
        Event::Planned { plan } => json!({"event": "planned", "plan": plan}),
        Event::Resumed { plan, phase, since } => {
            json!({"event": "resumed", "plan": plan, "phase": phase, "since": since})
        }
        Event::Note { text } => json!({"event": "note", "text": text}),
        Event::AwaitingHealth { tried, of, reason } => {
            json!({"event": "awaiting_health", "tried": tried, "of": of, "reason": reason})
        }
        Event::GateStarted { gate } => json!({"event": "gate_started", "gate": gate}),
        Event::GateFinished { gate, verdict } => {
            let mut line = json!(GateRecord::new(gate, None, verdict));
            line["event"] = json!("gate_finished");
            line
        }
        Event::TrafficMoved { from, to } => {
            json!({"event": "traffic_moved", "from": from, "to": to})
        }
        Event::StandbyRestored {
            color,
            version,
            result,
        } => {
            json!({"event": "standby_restored", "color": color, "version": version, "error": result.err()})
        }
        Event::ColorStopped {
            color,
            in_flight,
            interrupted,
            ..
        } => {
            json!({"event": "color_stopped", "color": color, "in_flight": in_flight, "interrupted": interrupted})
        }
        Event::BakeObserved {
            elapsed,
            of,
            tally,
            trouble,
        } => json!({
            "event": "bake_observed",
            "elapsed_seconds": elapsed.as_secs_f64(),
            "of_seconds": of.as_secs_f64(),
            "requests": tally.requests,
            "failed": tally.failed,
            "trouble": trouble,
        }),
        Event::ApprovalAwaited {
            before,
            evidence,
            expires,
        } => {
            json!({"event": "approval_awaited", "before": before, "evidence": evidence, "expires": expires})
        }
        Event::ApprovalDecided {
            before,
            decision,
            by,
            reason,
        } => {
            json!({"event": "approval_decided", "before": before, "decision": decision, "by": by, "reason": reason})
        }
        Event::PhaseReached { phase, reason } => {
            json!({"event": "phase_reached", "phase": phase, "reason": reason})
        }
        Event::RequestsLogged { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        color::Color,
        deployment::phase::Phase,
        evidence::verdict::{Conclusion, Verdict},
        state::approval::ApprovalDecision,
    };

    #[test]
    fn json_event_names_itself() {
        let verdict =
            Verdict::new(Conclusion::Pass, "right on 9 of 10 inputs").with("accuracy", 0.9);
        let judged = line(&Event::GateFinished {
            gate: "golden",
            verdict: &verdict,
        });
        let judged = judged.unwrap();
        assert_eq!(judged["event"], "gate_finished");
        assert_eq!(judged["verdict"], "pass");
        assert_eq!(judged["numbers"]["accuracy"], 0.9);
        let (from, to) = (Color::Blue, Color::Green);
        let moved = line(&Event::TrafficMoved { from, to });
        assert_eq!(
            moved,
            Some(json!({"event": "traffic_moved", "from": "blue", "to": "green"}))
        );
        let decided = line(&Event::ApprovalDecided {
            before: Phase::Promoted,
            decision: ApprovalDecision::Expired,
            by: None,
            reason: Some("no person decided"),
        });
        assert_eq!(
            decided,
            Some(json!({
                "event": "approval_decided",
                "before": "promoted",
                "decision": "expired",
                "by": null,
                "reason": "no person decided",
            }))
        );
        let ended = line(&Event::PhaseReached {
            phase: Phase::RolledBack,
            reason: Some("it is slow"),
        });
        assert_eq!(ended.unwrap()["phase"], "rolled_back");
    }
}
