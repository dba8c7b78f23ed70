//! The data of a report.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    color::Color,
    deployment::{phase::Phase, plan::Plan},
    evidence::{
        details::Flip,
        ending_counts::EndingCounts,
        latency::{Bin, Latencies},
        verdict::{Conclusion, Verdict},
    },
    ports::UnconfirmedRouter,
    report::{
        event_line::{EventLine, LoggedEvent},
        progress::{BakeProgress, HealthProgress, Progress, RunningGate},
    },
    state::approval::ApprovalDecision,
};

/// The schema number. It rises when an older reader would misread the data.
pub const SCHEMA: u32 = 1;

/// One deployment, as in `state/reports/ID.json`. Times are RFC 3339 in UTC, durations are seconds, rates and
/// shares are 0–1. Empty fields may be missing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The plan.
    pub plan: Plan,
    /// The phases in order. The last one is the end, if the deployment ended.
    pub phases: Vec<PhaseRecord>,
    /// Why it ended.
    #[serde(default)]
    pub reason: Option<String>,
    /// When all traffic moved to the candidate; `None` if it did not.
    #[serde(default)]
    pub switched: Option<Timestamp>,
    /// The verdicts of the gates in order; the last one may be the bake.
    #[serde(default)]
    pub gates: Vec<GateRecord>,
    /// The questions for approval in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<ApprovalRecord>,
    /// What clients received, second by second.
    #[serde(default)]
    pub traffic: Vec<TrafficSecond>,
    /// Notes.
    #[serde(default)]
    pub notes: Vec<String>,
    /// What runs now. A report does not have it.
    #[serde(skip)]
    pub(crate) progress: Progress,
}

/// A phase, and when it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseRecord {
    /// The phase.
    pub phase: Phase,
    /// When.
    pub at: Timestamp,
}

/// A gate, and its verdict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateRecord {
    /// The gate's name.
    pub gate: String,
    /// When it started; `None` if that is unknown.
    #[serde(default)]
    pub started: Option<Timestamp>,
    /// When it finished.
    pub finished: Timestamp,
    /// The conclusion.
    pub verdict: Conclusion,
    /// Why, in one sentence.
    pub summary: String,
    /// The figures. Each name carries its unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numbers: BTreeMap<String, f64>,
    /// What a person should look at, although it did not decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The active release's latencies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub active_latency: Vec<Bin>,
    /// The candidate's latencies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidate_latency: Vec<Bin>,
    /// The candidate's latencies in seconds, in the order of the requests; thinned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<f64>,
    /// Errors by kind.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub errors: BTreeMap<String, u64>,
    /// Inputs on which the releases disagree, the most severe first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flips: Vec<Flip>,
}

/// A question for approval, and how it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRecord {
    /// The phase that the deployment was to reach.
    pub before: Phase,
    /// The digest of the evidence.
    pub evidence: String,
    /// When the question was asked.
    pub asked: Timestamp,
    /// When it expires.
    pub expires: Timestamp,
    /// When it was decided; `None` if the deployment ended before, or the evidence was taken anew.
    #[serde(default)]
    pub decided: Option<Timestamp>,
    /// The decision, if there is one.
    #[serde(default)]
    pub decision: Option<ApprovalDecision>,
    /// Who decided.
    #[serde(default)]
    pub by: Option<String>,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What clients of one color received within one second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrafficSecond {
    /// The second, in seconds since 1970.
    pub second: i64,
    /// The color that was active when the requests arrived.
    pub color: Color,
    /// The clients' requests.
    pub requests: u64,
    /// Those that the color failed, also if the other color then answered.
    pub failed: u64,
    /// The median of the clients' waiting times, in seconds; 0 without a request.
    pub p50: f64,
    /// The 99th percentile of the clients' waiting times, in seconds; 0 without a request.
    pub p99: f64,
    /// How the clients' requests ended.
    #[serde(default, skip_serializing_if = "EndingCounts::is_empty")]
    pub endings: EndingCounts,
    /// How the deployer's own requests ended. No other field counts them.
    #[serde(default, skip_serializing_if = "EndingCounts::is_empty")]
    pub own_endings: EndingCounts,
}

impl Record {
    /// Creates the record of a deployment that has not begun.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self {
            schema: SCHEMA,
            plan,
            phases: Vec::new(),
            reason: None,
            switched: None,
            gates: Vec::new(),
            approvals: Vec::new(),
            traffic: Vec::new(),
            notes: Vec::new(),
            progress: Progress::default(),
        }
    }

    /// Adds an event to the record of a deployment. The plan begins it; earlier events belong to no deployment.
    pub(crate) fn fold(record: &mut Option<Self>, line: &EventLine) {
        match (&line.event, &mut *record) {
            (LoggedEvent::Planned { plan } | LoggedEvent::Resumed { plan, .. }, None) => {
                *record = Some(Self::new(plan.clone()));
            }
            (_, Some(record)) => record.apply(line),
            (_, None) => {}
        }
    }

    /// Adds an event of this deployment. The function is long, because it has an arm for each event.
    pub fn apply(&mut self, line: &EventLine) {
        let at = line.at;
        match &line.event {
            LoggedEvent::Resumed { .. } => self.progress.stop(),
            LoggedEvent::Note { text } => self.notes.push(text.clone()),
            LoggedEvent::AwaitingHealth {
                elapsed_seconds,
                without_progress_seconds,
                stall_seconds,
                reason,
                last_line,
            } => {
                self.progress.health = Some(HealthProgress {
                    elapsed: *elapsed_seconds,
                    without_progress: *without_progress_seconds,
                    stall: *stall_seconds,
                    reason: reason.clone(),
                    last_line: last_line.clone(),
                });
            }
            LoggedEvent::GateStarted { gate } => {
                self.progress.gate = Some(RunningGate {
                    gate: gate.clone(),
                    since: at,
                });
            }
            LoggedEvent::GateFinished(judged) => {
                let running = self.progress.gate.take();
                self.gates.push(GateRecord {
                    started: running.map(|running| running.since),
                    ..judged.clone()
                });
                self.progress.bake = None;
            }
            LoggedEvent::TrafficMoved {
                to, unconfirmed, ..
            } => {
                if *to == self.plan.idle {
                    self.switched = Some(at);
                }
                if let Some(text) = UnconfirmedRouter::in_words(unconfirmed) {
                    self.notes.push(text);
                }
            }
            LoggedEvent::BakeObserved {
                elapsed_seconds,
                of_seconds,
                requests,
                failed,
                trouble,
            } => {
                self.progress.bake = Some(BakeProgress {
                    elapsed: *elapsed_seconds,
                    of: *of_seconds,
                    requests: *requests,
                    failed: *failed,
                    trouble: trouble.clone(),
                });
            }
            LoggedEvent::ApprovalAwaited {
                before,
                evidence,
                expires,
            } => self.approvals.push(ApprovalRecord {
                before: *before,
                evidence: evidence.clone(),
                asked: at,
                expires: *expires,
                decided: None,
                decision: None,
                by: None,
                reason: None,
            }),
            LoggedEvent::ApprovalDecided {
                decision,
                by,
                reason,
                ..
            } => {
                if let Some(asked) = self.approvals.last_mut() {
                    asked.decided = Some(at);
                    asked.decision = Some(*decision);
                    asked.by.clone_from(by);
                    asked.reason.clone_from(reason);
                }
            }
            LoggedEvent::PhaseReached { phase, reason } => {
                self.phases.push(PhaseRecord { phase: *phase, at });
                self.reason.clone_from(reason);
                // Health checks end with the phase. A gate or a bake that an end interrupts has no verdict.
                self.progress.health = None;
                if phase.is_end() {
                    self.progress.stop();
                }
            }
            LoggedEvent::Planned { .. }
            | LoggedEvent::StandbyRestored { .. }
            | LoggedEvent::ColorStopped { .. } => {}
        }
    }

    /// Forgets all but the last `keep` notes, and counts what it forgot.
    pub(crate) fn forget_notes(&mut self, keep: usize) {
        let surplus = self.notes.len().saturating_sub(keep);
        self.notes.drain(..surplus);
        self.progress.forgotten_notes += surplus;
    }

    /// The last phase.
    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        Some(self.phases.last()?.phase)
    }

    /// The result in one line.
    #[must_use]
    pub fn headline(&self) -> String {
        let release = format!("{} {}", self.plan.release.model, self.plan.release.version);
        let Some(phase) = self.phase() else {
            return format!("{release}: not begun");
        };
        match &self.reason {
            Some(reason) => format!("{release} {phase}: {reason}"),
            None => format!("{release}: {phase}, under way or interrupted"),
        }
    }
}

impl GateRecord {
    /// Records a verdict of a gate that finished at this time, and whose start is not known.
    #[must_use]
    pub fn new(gate: &str, finished: Timestamp, verdict: &Verdict) -> Self {
        let bins = |latencies: &Option<Latencies>| {
            latencies.as_ref().map_or_else(Vec::new, Latencies::bins)
        };
        let Verdict {
            conclusion,
            summary,
            numbers,
            warnings,
            evidence,
        } = verdict;
        Self {
            gate: gate.to_owned(),
            started: None,
            finished,
            verdict: *conclusion,
            summary: summary.clone(),
            // JSON has no infinity.
            numbers: numbers
                .iter()
                .filter(|(_, value)| value.is_finite())
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect(),
            warnings: warnings.clone(),
            active_latency: bins(&evidence.active_latency),
            candidate_latency: bins(&evidence.candidate_latency),
            curve: evidence.curve.clone(),
            errors: evidence.errors.clone(),
            flips: evidence.flips.clone(),
        }
    }
}
