//! Events of a command. Work emits events; reporters consume them.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    color::Color,
    deployment::{interrupted::Interrupted, phase::Phase, plan::Plan},
    evidence::{request::Request, tally::Tally, verdict::Verdict},
    ports::UnconfirmedRouter,
    state::approval::ApprovalDecision,
};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A deployment begins.
    Planned {
        /// The deployment.
        plan: &'a Plan,
    },
    /// An interrupted deployment is continued or completed.
    Resumed {
        /// The deployment.
        plan: &'a Plan,
        /// The last phase in the journal.
        phase: Phase,
        /// When it reached that phase.
        since: Timestamp,
    },
    /// A message that is neither a phase nor a verdict.
    Note {
        /// One sentence.
        text: String,
    },
    /// The candidate is not healthy yet.
    AwaitingHealth {
        /// Since the first health check.
        elapsed: Duration,
        /// How long it has made no progress.
        without_progress: Duration,
        /// It is refused after this time without progress.
        stall: Duration,
        /// Why the last check failed.
        reason: String,
        /// The last line that it logged, if it logged any.
        last_line: Option<String>,
    },
    /// A gate begins.
    GateStarted {
        /// The gate's name.
        gate: &'static str,
    },
    /// A gate, or the bake, has a verdict.
    GateFinished {
        /// The gate's name.
        gate: &'static str,
        /// The verdict.
        verdict: &'a Verdict,
    },
    /// All traffic moved.
    TrafficMoved {
        /// The color that had the traffic.
        from: Color,
        /// The color that has the traffic now.
        to: Color,
        /// The routers that did not confirm it.
        unconfirmed: &'a [UnconfirmedRouter],
    },
    /// The idle color got back the release that it held before a deployment that failed, or could not.
    StandbyRestored {
        /// The idle color.
        color: Color,
        /// The version that it held before.
        version: &'a str,
        /// Why it does not hold it again, if so.
        result: Result<(), &'a str>,
    },
    /// A color on which requests may have hung was stopped.
    ColorStopped {
        /// The color.
        color: Color,
        /// How many requests the router worked on before, to both colors; `None` if it did not say.
        in_flight: Option<u64>,
        /// The requests that this interrupted; `None` if this machine cannot read the router's log.
        interrupted: Option<&'a [Interrupted]>,
        /// The same as a sentence.
        text: &'a str,
    },
    /// Requests were read from the router's log.
    RequestsLogged {
        /// In the order in which they ended.
        requests: &'a [Request],
    },
    /// One observation of the candidate during the bake.
    BakeObserved {
        /// Since the switch.
        elapsed: Duration,
        /// The duration of the bake, with its extensions so far.
        of: Duration,
        /// Requests for the candidate since the switch.
        tally: Tally,
        /// Why the last check failed, if it did.
        trouble: Option<&'a str>,
    },
    /// The deployment waits for approval.
    ApprovalAwaited {
        /// The phase that it reaches after the approval.
        before: Phase,
        /// The digest of the evidence, which an approval names.
        evidence: &'a str,
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
        by: Option<&'a str>,
        /// Why.
        reason: Option<&'a str>,
    },
    /// A phase was written to the journal.
    PhaseReached {
        /// The phase.
        phase: Phase,
        /// Why the deployment ended, if it did.
        reason: Option<&'a str>,
    },
}

/// Consumes events. Must not fail and must not decide anything.
pub trait Reporter: Send + Sync {
    /// Consumes one event.
    fn report(&self, event: &Event<'_>);
}
