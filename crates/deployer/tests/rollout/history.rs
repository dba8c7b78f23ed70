//! Everything that happened, in order, and what must be true of it whatever happened.

use std::fmt;

use deployer::{
    color::Color,
    deployment::{phase::Phase, plan::Plan, rollout::Outcome},
    event::{Event, Reporter},
    evidence::verdict::Conclusion,
    ports::{Service, Target},
    state::journal,
};

use crate::fake_ports::Scene;

/// One use of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    Active,
    PointAt(Color),
    SetFit(Color, bool),
    NewRequests,
    StartRouter,
    Start(Color, String),
    Stop(Service),
    Inspect(Service),
    Logs(Service),
    Health(Target),
    Predict(Target),
    LoadResult(Target),
    SetShadow(bool),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Happened {
    /// A port was used, with or without success.
    Called(Call, bool),
    /// A phase was told; the other one is what the journal held then.
    Reached(Phase, Option<Phase>),
    /// A gate's conclusion was told.
    Judged(&'static str, Conclusion),
    Moved(Color, Color),
    Note(String),
    /// A look was told, with the client requests counted by then.
    MonitoredColor(u64),
    /// Anything else.
    Told,
}

/// What happened, and the flags right after it.
#[derive(Clone)]
pub(crate) struct Moment {
    pub(crate) happened: Happened,
    pub(crate) active: Color,
    pub(crate) fit: Vec<Color>,
}

impl fmt::Debug for Moment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            happened,
            active,
            fit,
        } = self;
        write!(
            formatter,
            "{happened:?} ({active} is active, fit are {fit:?})"
        )
    }
}

/// All moments, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct History(pub(crate) Vec<Moment>);

impl History {
    pub(crate) fn last(&self) -> &Moment {
        self.0.last().expect("something happened")
    }

    pub(crate) fn position(&self, call: &Call) -> Option<usize> {
        self.0.iter().position(
            |moment| matches!(&moment.happened, Happened::Called(made, _) if made == call),
        )
    }

    pub(crate) fn calls(&self) -> impl Iterator<Item = &Call> {
        self.0.iter().filter_map(|moment| match &moment.happened {
            Happened::Called(call, _) => Some(call),
            _ => None,
        })
    }

    pub(crate) fn count(&self, call: &Call) -> usize {
        self.calls().filter(|made| *made == call).count()
    }

    /// The phases that were told.
    pub(crate) fn phases(&self) -> Vec<Phase> {
        self.0
            .iter()
            .filter_map(|moment| match moment.happened {
                Happened::Reached(phase, _) => Some(phase),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn notes(&self) -> Vec<&str> {
        self.0
            .iter()
            .filter_map(|moment| match &moment.happened {
                Happened::Note(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Whether anything was started, stopped or flagged.
    pub(crate) fn touched_anything(&self) -> bool {
        self.calls().any(|call| {
            matches!(
                call,
                Call::PointAt(_)
                    | Call::SetFit(..)
                    | Call::StartRouter
                    | Call::Start(..)
                    | Call::Stop(_)
            )
        })
    }

    /// What holds at every moment of every deployment that nobody interferes with.
    pub(crate) fn assert_sound_throughout(&self, plan: &Plan) {
        let Plan {
            active: old,
            idle: candidate,
            ..
        } = *plan;
        let (mut started, mut validated, mut proven) = (false, false, false);
        // A flag that cannot be removed stays, and the deployment halts.
        let mut flag_stays = false;
        for (number, moment) in self.0.iter().enumerate() {
            let context = || format!("at {number}, {moment:?}, of {:#?}", self.0);
            match &moment.happened {
                Happened::Called(Call::Start(color, version), _) => {
                    assert_eq!(*color, candidate, "{}", context());
                    assert_eq!(*version, plan.release.version, "{}", context());
                    started = true;
                }
                Happened::Called(Call::Stop(service), _) => {
                    assert_eq!(*service, Service::Server(candidate), "{}", context());
                    assert!(started, "stopped and not started {}", context());
                    assert_eq!(moment.active, old, "stopped under traffic {}", context());
                }
                Happened::Called(Call::StartRouter, _) => panic!("router started {}", context()),
                Happened::Called(Call::SetFit(color, false), removed) if *color == candidate => {
                    flag_stays = started && !removed;
                }
                // One that was killed here may have started something.
                Happened::Reached(Phase::Starting, _) => started = true,
                Happened::Reached(Phase::Validated, _) => validated = true,
                Happened::Judged("bake", Conclusion::Pass) => proven = true,
                _ => {}
            }
            if let Happened::Reached(phase, journaled) = moment.happened {
                assert_eq!(journaled, Some(phase), "told first {}", context());
            }
            let candidate_is_fit = moment.fit.contains(&candidate);
            if started && !proven {
                assert!(!candidate_is_fit, "unproven and fit {}", context());
            }
            if moment.active == candidate {
                assert!(validated, "traffic before validation {}", context());
                assert!(
                    moment.fit.contains(&old),
                    "no standby after the switch {}",
                    context()
                );
            } else if started {
                assert!(
                    !candidate_is_fit || flag_stays,
                    "fit without having the traffic {}",
                    context()
                );
            }
            if let Happened::Reached(phase, _) = moment.happened
                && flag_stays
                && phase.is_end()
            {
                assert_eq!(phase, Phase::Halted, "{}", context());
            }
        }
    }

    /// What holds at the end, by the outcome.
    pub(crate) fn assert_sound_at_the_end(&self, plan: &Plan, outcome: &Outcome) {
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
            "told otherwise {}",
            context()
        );
        match outcome.phase {
            Phase::Promoted => {
                assert_eq!(last.active, candidate, "{}", context());
                assert!(last.fit.contains(&candidate), "not fit {}", context());
                assert!(last.fit.contains(&old), "old one not fit {}", context());
                assert_eq!(stop, None, "{}", context());
            }
            Phase::Refused => {
                let moved = self.0.iter().any(|moment| moment.active != old);
                assert!(!moved, "refused, and traffic had moved {}", context());
            }
            Phase::RolledBack => {
                assert_eq!(last.active, old, "{}", context());
                let back = self.position(&Call::PointAt(old));
                assert!(back.is_some(), "{}", context());
                assert!(back < stop, "stopped before traffic left {}", context());
            }
            Phase::Halted => assert_eq!(stop, None, "stopped though halted {}", context()),
            Phase::Planned
            | Phase::Starting
            | Phase::Healthy
            | Phase::Validated
            | Phase::Switched => panic!("not an end: {}", context()),
        }
    }
}

/// Takes down what is told, between the calls.
pub(crate) struct Collector {
    pub(crate) scene: Scene,
    pub(crate) directory: std::path::PathBuf,
}

impl Reporter for Collector {
    fn report(&self, event: &Event<'_>) {
        let happened = match event {
            Event::PhaseReached { phase, .. } => {
                let entry = journal::last_entry(&self.directory).ok().flatten();
                Happened::Reached(*phase, entry.map(|entry| entry.phase))
            }
            Event::GateFinished { gate, verdict } => Happened::Judged(gate, verdict.conclusion),
            Event::TrafficMoved { from, to } => Happened::Moved(*from, *to),
            Event::Note { text } => Happened::Note(text.clone()),
            Event::BakeObserved { tally, .. } => Happened::MonitoredColor(tally.requests),
            Event::Planned { .. }
            | Event::Resumed { .. }
            | Event::AwaitingHealth { .. }
            | Event::GateStarted { .. }
            | Event::RequestsLogged { .. } => Happened::Told,
        };
        self.scene.lock().record(happened);
    }
}
