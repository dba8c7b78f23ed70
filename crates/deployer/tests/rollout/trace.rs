//! The trace of a deployment: port calls and events in order. Holds the invariants of every deployment.

use std::fmt;

use deployer::{
    color::Color,
    deployment::{phase::Phase, plan::Plan, rollout::Outcome},
    event::{Event, Reporter},
    evidence::verdict::Conclusion,
    ports::{Service, Target},
    state::approval::ApprovalDecision,
};

use crate::deployment::last_entry;
use crate::fake_ports::FakePorts;

/// A call of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Active,
    SwitchTo(Color),
    ReadActive,
    ReadFit(Color),
    SetFit(Color, bool),
    ReadShadow,
    ReadLog,
    StartRouter,
    Start(Color, String),
    /// The deployer no longer waits for a start that never returns.
    AbandonStart,
    Stop(Service),
    Inspect(Service),
    Logs(Service),
    Health(Target),
    Predict(Target),
    Load(Target),
    SetShadow(bool),
}

/// A port call, or an event of the deployer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TraceEvent {
    /// A port was called; `true` if the call succeeded.
    PortCalled(Call, bool),
    /// A phase was reported, and the phase that the journal held at that moment.
    PhaseReached(Phase, Option<Phase>),
    /// A gate, or the bake, has a conclusion.
    GateFinished(&'static str, Conclusion),
    /// All traffic moved from the first color to the second.
    TrafficMoved(Color, Color),
    Note(String),
    /// The deployment waits for approval before this phase.
    ApprovalAwaited(Phase),
    /// A question was decided.
    ApprovalDecided(Phase, ApprovalDecision),
    /// The candidate was observed during the bake, after this many client requests.
    BakeObserved(u64),
    /// Any other event of the deployer, or an interference by the test.
    Other,
}

/// An event, and the flags right after it.
#[derive(Clone)]
pub(crate) struct TraceEntry {
    pub(crate) event: TraceEvent,
    pub(crate) active: Color,
    pub(crate) fit: Vec<Color>,
}

impl fmt::Debug for TraceEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event, active, fit } = self;
        write!(formatter, "{event:?} (active: {active}, fit: {fit:?})")
    }
}

/// All port calls and events of a deployment, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trace(pub(crate) Vec<TraceEntry>);

impl Trace {
    pub(crate) fn last(&self) -> &TraceEntry {
        self.0.last().expect("the trace is not empty")
    }

    pub(crate) fn position(&self, call: &Call) -> Option<usize> {
        self.0.iter().position(
            |entry| matches!(&entry.event, TraceEvent::PortCalled(made, _) if made == call),
        )
    }

    pub(crate) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.0.iter().filter_map(|entry| match &entry.event {
            TraceEvent::PortCalled(call, _) => Some(call),
            _ => None,
        })
    }

    pub(crate) fn count(&self, call: &Call) -> usize {
        self.calls().filter(|made| *made == call).count()
    }

    /// The reported phases, in order.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        self.0
            .iter()
            .filter_map(|entry| match entry.event {
                TraceEvent::PhaseReached(phase, _) => Some(phase),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn notes(&self) -> Vec<&str> {
        self.0
            .iter()
            .filter_map(|entry| match &entry.event {
                TraceEvent::Note(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Whether a service was started or stopped, or a flag changed.
    pub(crate) fn changed_anything(&self) -> bool {
        self.calls().any(|call| {
            matches!(
                call,
                Call::SwitchTo(_)
                    | Call::SetFit(..)
                    | Call::StartRouter
                    | Call::Start(..)
                    | Call::Stop(_)
            )
        })
    }

    /// Asserts what holds after every call and event of a deployment without interference.
    pub(crate) fn assert_invariants(&self, plan: &Plan) {
        let Plan {
            active: old,
            idle: candidate,
            ..
        } = *plan;
        let (mut started, mut validated, mut proven) = (false, false, false);
        // A fit flag that cannot be removed stays, and the deployment halts.
        let mut flag_stays = false;
        for (number, entry) in self.0.iter().enumerate() {
            let context = || format!("at {number}, {entry:?}, of {:#?}", self.0);
            match &entry.event {
                TraceEvent::PortCalled(Call::Start(color, version), _) => {
                    assert_eq!(*color, candidate, "{}", context());
                    assert_eq!(*version, plan.release.version, "{}", context());
                    started = true;
                }
                TraceEvent::PortCalled(Call::Stop(service), _) => {
                    assert_eq!(*service, Service::Server(candidate), "{}", context());
                    assert!(
                        started,
                        "a candidate that was never started was stopped {}",
                        context()
                    );
                    assert_eq!(
                        entry.active,
                        old,
                        "the candidate was stopped while it had the traffic {}",
                        context()
                    );
                }
                TraceEvent::PortCalled(Call::StartRouter, _) => {
                    panic!("the router was started {}", context())
                }
                TraceEvent::PortCalled(Call::SetFit(color, false), removed)
                    if *color == candidate =>
                {
                    flag_stays = started && !removed;
                }
                // Recovery stops a candidate that the killed deployer may not have started yet.
                TraceEvent::PhaseReached(Phase::Starting, _) => started = true,
                TraceEvent::PhaseReached(Phase::Validated, _) => validated = true,
                TraceEvent::GateFinished("bake", Conclusion::Pass) => proven = true,
                _ => {}
            }
            if let TraceEvent::PhaseReached(phase, journaled) = entry.event {
                assert_eq!(
                    journaled,
                    Some(phase),
                    "the phase was reported before the journal held it {}",
                    context()
                );
            }
            let candidate_is_fit = entry.fit.contains(&candidate);
            if started && !proven {
                assert!(
                    !candidate_is_fit,
                    "an unproven candidate is fit {}",
                    context()
                );
            }
            if entry.active == candidate {
                assert!(
                    validated,
                    "the candidate has traffic before validation {}",
                    context()
                );
                assert!(
                    entry.fit.contains(&old),
                    "the old color is not fit after the switch {}",
                    context()
                );
            } else if started {
                assert!(
                    !candidate_is_fit || flag_stays,
                    "the candidate is fit without traffic {}",
                    context()
                );
            }
            if let TraceEvent::PhaseReached(phase, _) = entry.event
                && flag_stays
                && phase.is_end()
            {
                assert_eq!(
                    phase,
                    Phase::Halted,
                    "the deployment did not halt though the fit flag stays {}",
                    context()
                );
            }
        }
    }

    /// Asserts that flags and calls at the end match the outcome.
    pub(crate) fn assert_final_state(&self, plan: &Plan, outcome: &Outcome) {
        let Plan {
            active: old,
            idle: candidate,
            ..
        } = *plan;
        let last = self.last();
        let stop = self.position(&Call::Stop(Service::Server(candidate)));
        let context = || format!("{outcome:?} of {:#?}", self.0);
        assert_eq!(
            self.phases().last(),
            Some(&outcome.phase),
            "the last reported phase is not the outcome {}",
            context()
        );
        match outcome.phase {
            Phase::Promoted => {
                assert_eq!(last.active, candidate, "{}", context());
                assert!(
                    last.fit.contains(&candidate),
                    "the promoted candidate is not fit {}",
                    context()
                );
                assert!(
                    last.fit.contains(&old),
                    "the old color is not fit {}",
                    context()
                );
                assert_eq!(stop, None, "{}", context());
            }
            Phase::Refused => {
                let traffic_moved = self.0.iter().any(|entry| entry.active != old);
                assert!(
                    !traffic_moved,
                    "the deployment was refused after traffic moved {}",
                    context()
                );
            }
            Phase::RolledBack => {
                assert_eq!(last.active, old, "{}", context());
                let moved_back = self.position(&Call::SwitchTo(old));
                assert!(moved_back.is_some(), "{}", context());
                assert!(
                    moved_back < stop,
                    "the candidate was stopped before traffic moved back {}",
                    context()
                );
            }
            Phase::Halted => assert_eq!(stop, None, "a halted candidate was stopped {}", context()),
            Phase::Planned
            | Phase::Starting
            | Phase::Healthy
            | Phase::Validated
            | Phase::Switched => panic!("the phase is no end: {}", context()),
        }
    }
}

/// Adds the events of the deployer to the trace.
pub(crate) struct Collector {
    pub(crate) fake_ports: FakePorts,
    pub(crate) directory: std::path::PathBuf,
}

impl Reporter for Collector {
    fn report(&self, event: &Event<'_>) {
        let recorded = match event {
            Event::PhaseReached { phase, .. } => {
                let entry = last_entry(&self.directory);
                TraceEvent::PhaseReached(*phase, entry.map(|entry| entry.phase))
            }
            Event::GateFinished { gate, verdict } => {
                TraceEvent::GateFinished(gate, verdict.conclusion)
            }
            Event::TrafficMoved { from, to, .. } => TraceEvent::TrafficMoved(*from, *to),
            Event::Note { text } => TraceEvent::Note(text.clone()),
            Event::ApprovalAwaited { before, .. } => TraceEvent::ApprovalAwaited(*before),
            Event::ApprovalDecided {
                before, decision, ..
            } => TraceEvent::ApprovalDecided(*before, *decision),
            Event::BakeObserved { tally, .. } => TraceEvent::BakeObserved(tally.requests),
            Event::Planned { .. }
            | Event::StandbyRestored { .. }
            | Event::ColorStopped { .. }
            | Event::Resumed { .. }
            | Event::AwaitingHealth { .. }
            | Event::GateStarted { .. }
            | Event::RequestsLogged { .. } => TraceEvent::Other,
        };
        self.fake_ports.lock().record(recorded);
    }
}
