//! The line of an event, as `--json` prints it and a live file keeps it. docs/events.md describes it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    color::Color,
    deployment::{interrupted::Interrupted, phase::Phase, plan::Plan},
    event::Event,
    ports::UnconfirmedRouter,
    report::record::GateRecord,
    state::approval::ApprovalDecision,
};

/// An event, and when it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventLine {
    /// The event.
    #[serde(flatten)]
    pub event: LoggedEvent,
    /// When it happened.
    pub at: Timestamp,
}

/// An [`Event`] that owns its data. Requests from the router's log are no part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LoggedEvent {
    /// A deployment begins.
    Planned {
        /// The deployment.
        plan: Plan,
    },
    /// An interrupted deployment is continued or completed.
    Resumed {
        /// The deployment.
        plan: Plan,
        /// The last phase in the journal.
        phase: Phase,
        /// When it reached that phase.
        since: Timestamp,
    },
    /// A message.
    Note {
        /// One sentence.
        text: String,
    },
    /// The candidate is not healthy yet.
    AwaitingHealth {
        /// Since the first health check.
        elapsed_seconds: f64,
        /// How long it has made no progress.
        without_progress_seconds: f64,
        /// It is refused after this time without progress.
        stall_seconds: f64,
        /// Why the last check failed.
        reason: String,
        /// The last line that it logged, if it logged any.
        last_line: Option<String>,
    },
    /// A gate begins.
    GateStarted {
        /// The gate's name.
        gate: String,
    },
    /// A gate, or the bake, has a verdict.
    GateFinished(GateRecord),
    /// All traffic moved.
    TrafficMoved {
        /// The color that had the traffic.
        from: Color,
        /// The color that has the traffic now.
        to: Color,
        /// The routers that did not confirm it.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unconfirmed: Vec<UnconfirmedRouter>,
    },
    /// The idle color got back the release that it held before, or could not.
    StandbyRestored {
        /// The idle color.
        color: Color,
        /// The version that it held before.
        version: String,
        /// Why it does not hold it again, if so.
        error: Option<String>,
    },
    /// A color on which requests may have hung was stopped.
    ColorStopped {
        /// The color.
        color: Color,
        /// How many requests the router worked on before, to both colors; `None` if it did not say.
        in_flight: Option<u64>,
        /// The requests that this interrupted; `None` if this machine cannot read the router's log.
        interrupted: Option<Vec<Interrupted>>,
    },
    /// One observation of the candidate during the bake.
    BakeObserved {
        /// Since the switch.
        elapsed_seconds: f64,
        /// The duration of the bake, with its extensions so far.
        of_seconds: f64,
        /// Requests for the candidate since the switch.
        requests: u64,
        /// Those of them that failed.
        failed: u64,
        /// Why the last check failed, if it did.
        trouble: Option<String>,
    },
    /// The deployment waits for approval.
    ApprovalAwaited {
        /// The phase that it reaches after the approval.
        before: Phase,
        /// The digest of the evidence, which an approval names.
        evidence: String,
        /// When the question expires.
        expires: Timestamp,
    },
    /// A question for approval was decided.
    ApprovalDecided {
        /// The phase that the deployment was to reach.
        before: Phase,
        /// The decision.
        decision: ApprovalDecision,
        /// Who decided; `None` if the question expired.
        by: Option<String>,
        /// Why.
        reason: Option<String>,
    },
    /// A phase was written to the journal.
    PhaseReached {
        /// The phase.
        phase: Phase,
        /// Why the deployment ended, if it did.
        reason: Option<String>,
    },
}

impl EventLine {
    /// The line of an event that happened at `at`; `None` for events that programs do not receive.
    #[must_use]
    pub fn of(event: &Event<'_>, at: Timestamp) -> Option<Self> {
        let event = LoggedEvent::of(event, at)?;
        Some(Self { event, at })
    }

    /// The line as JSON, without its end.
    pub(super) fn json(&self) -> String {
        // Nothing in a line can fail to become JSON: its keys are strings, and infinite figures were left out.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl LoggedEvent {
    /// The function is long, because it has an arm for each event.
    fn of(event: &Event<'_>, at: Timestamp) -> Option<Self> {
        Some(match event {
            Event::Planned { plan } => Self::Planned {
                plan: (*plan).clone(),
            },
            Event::Resumed { plan, phase, since } => Self::Resumed {
                plan: (*plan).clone(),
                phase: *phase,
                since: *since,
            },
            Event::Note { text } => Self::Note { text: text.clone() },
            Event::AwaitingHealth {
                elapsed,
                without_progress,
                stall,
                reason,
                last_line,
            } => Self::AwaitingHealth {
                elapsed_seconds: elapsed.as_secs_f64(),
                without_progress_seconds: without_progress.as_secs_f64(),
                stall_seconds: stall.as_secs_f64(),
                reason: reason.clone(),
                last_line: last_line.clone(),
            },
            Event::GateStarted { gate } => Self::GateStarted {
                gate: (*gate).to_owned(),
            },
            Event::GateFinished { gate, verdict } => {
                Self::GateFinished(GateRecord::new(gate, at, verdict))
            }
            Event::TrafficMoved {
                from,
                to,
                unconfirmed,
            } => Self::TrafficMoved {
                from: *from,
                to: *to,
                unconfirmed: unconfirmed.to_vec(),
            },
            Event::StandbyRestored {
                color,
                version,
                result,
            } => Self::StandbyRestored {
                color: *color,
                version: (*version).to_owned(),
                error: result.err().map(str::to_owned),
            },
            Event::ColorStopped {
                color,
                in_flight,
                interrupted,
                ..
            } => Self::ColorStopped {
                color: *color,
                in_flight: *in_flight,
                interrupted: interrupted.map(<[_]>::to_vec),
            },
            Event::BakeObserved {
                elapsed,
                of,
                tally,
                trouble,
            } => Self::BakeObserved {
                elapsed_seconds: elapsed.as_secs_f64(),
                of_seconds: of.as_secs_f64(),
                requests: tally.requests,
                failed: tally.failed,
                trouble: trouble.map(str::to_owned),
            },
            Event::ApprovalAwaited {
                before,
                evidence,
                expires,
            } => Self::ApprovalAwaited {
                before: *before,
                evidence: (*evidence).to_owned(),
                expires: *expires,
            },
            Event::ApprovalDecided {
                before,
                decision,
                by,
                reason,
            } => Self::ApprovalDecided {
                before: *before,
                decision: *decision,
                by: by.map(str::to_owned),
                reason: reason.map(str::to_owned),
            },
            Event::PhaseReached { phase, reason } => Self::PhaseReached {
                phase: *phase,
                reason: reason.map(str::to_owned),
            },
            Event::RequestsLogged { .. } => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        evidence::verdict::{Conclusion, Verdict},
        release::Release,
    };

    fn json_of(event: &Event<'_>) -> Value {
        let line = EventLine::of(event, Timestamp::UNIX_EPOCH).unwrap();
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(
            serde_json::from_value::<EventLine>(json.clone()).unwrap(),
            line
        );
        json
    }

    #[test]
    fn event_line_names_its_event_and_reads_back() {
        let verdict = Verdict::new(Conclusion::Pass, "right on 9 of 10 inputs")
            .with("accuracy", 0.9)
            .with("ratio", f64::INFINITY);
        let judged = json_of(&Event::GateFinished {
            gate: "golden",
            verdict: &verdict,
        });
        assert_eq!(judged["event"], "gate_finished");
        assert_eq!(judged["verdict"], "pass");
        assert_eq!(judged["numbers"], json!({"accuracy": 0.9}));
        assert_eq!(judged["at"], "1970-01-01T00:00:00Z");
        let (from, to) = (Color::Blue, Color::Green);
        assert_eq!(
            json_of(&Event::TrafficMoved {
                from,
                to,
                unconfirmed: &[]
            }),
            json!({"event": "traffic_moved", "from": "blue", "to": "green", "at": "1970-01-01T00:00:00Z"})
        );
        let unconfirmed = &[UnconfirmedRouter {
            name: "r2".to_owned(),
            fenced: true,
        }];
        let moved = json_of(&Event::TrafficMoved {
            from,
            to,
            unconfirmed,
        });
        assert_eq!(
            moved["unconfirmed"],
            json!([{"name": "r2", "fenced": true}])
        );
        let ended = json_of(&Event::PhaseReached {
            phase: Phase::RolledBack,
            reason: Some("it is slow"),
        });
        assert_eq!(ended["phase"], "rolled_back");
        let release = Release {
            model: "sentiment".to_owned(),
            version: "v2".to_owned(),
            digest: None,
        };
        let plan = Plan::new(Timestamp::UNIX_EPOCH, Color::Blue, release);
        assert_eq!(
            json_of(&Event::Planned { plan: &plan })["plan"]["idle"],
            "green"
        );
        json_of(&Event::ColorStopped {
            color: Color::Green,
            in_flight: Some(3),
            interrupted: Some(&[]),
            text: "no request was interrupted",
        });
        json_of(&Event::StandbyRestored {
            color: Color::Green,
            version: "v1",
            result: Err("it does not start"),
        });
    }

    #[test]
    fn logged_requests_have_no_line() {
        let logged = Event::RequestsLogged { requests: &[] };
        assert_eq!(EventLine::of(&logged, Timestamp::UNIX_EPOCH), None);
    }
}
