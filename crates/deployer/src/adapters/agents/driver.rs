//! Carries out a change of the flags: does what the pure state machine says, and tells it what happened.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use crate::{
    adapters::agents::agent_client::AgentClient,
    cluster::change::{
        Action, ChangeLimits, Decide, DecideOutcome, Event, FencedChange, Message, Outcome,
    },
    kill_point,
    ports::{PortError, RouterEntry, TruthStore},
};

/// More messages to one router are lost while it does not answer these. Each tick repeats what is lost.
const MAX_MESSAGES_TO_A_ROUTER: usize = 4;

/// A change of the flags as a state machine.
pub(super) trait Change {
    /// How it ends.
    type Outcome: Clone;

    /// Takes what happened, and returns what to do.
    fn handle(&mut self, event: Event, now: Duration) -> Vec<Action>;

    /// Returns how it ended; `None` while it goes on.
    fn outcome(&self) -> Option<&Self::Outcome>;
}

impl Change for FencedChange {
    type Outcome = Outcome;

    fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        self.handle(event, now)
    }

    fn outcome(&self) -> Option<&Outcome> {
        self.outcome()
    }
}

impl Change for Decide {
    type Outcome = DecideOutcome;

    fn handle(&mut self, event: Event, now: Duration) -> Vec<Action> {
        self.handle(event, now)
    }

    fn outcome(&self) -> Option<&DecideOutcome> {
        self.outcome()
    }
}

/// What a change needs.
pub(super) struct Driver {
    pub(super) store: Arc<dyn TruthStore>,
    pub(super) agents: Arc<AgentClient>,
    pub(super) limits: ChangeLimits,
}

/// The messages and the requests to the store that have no answer yet.
#[derive(Default)]
struct InFlight<'a> {
    store: FuturesUnordered<BoxFuture<'a, Event>>,
    routers: FuturesUnordered<BoxFuture<'a, Event>>,
    /// How many of `routers` are for each router.
    counts: BTreeMap<String, usize>,
}

impl Driver {
    /// Carries out a change until it ends. `begin` gets the time and returns the change and its first actions.
    pub(super) async fn carry_out<C: Change>(
        &self,
        begin: impl FnOnce(Duration) -> (C, Vec<Action>),
    ) -> C::Outcome {
        let (mut change, mut actions) = begin(now());
        let mut known = BTreeMap::new();
        let mut in_flight = InFlight::default();
        let mut ticks = tokio::time::interval(self.tick());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for action in actions {
                self.start(action, &known, &mut in_flight);
            }
            if let Some(outcome) = change.outcome().cloned() {
                self.finish(in_flight).await;
                return outcome;
            }
            let event = tokio::select! {
                // What happened counts before the time that passed.
                biased;
                Some(event) = in_flight.store.next() => event,
                Some(event) = in_flight.routers.next() => event,
                _ = ticks.tick() => Event::Tick,
            };
            in_flight.count_answer(&event);
            if let Event::Listed(Ok(entries)) = &event {
                // A router that is gone still gets the outcome.
                known.extend(
                    entries
                        .iter()
                        .map(|entry| (entry.name.clone(), entry.clone())),
                );
            }
            actions = change.handle(event, now());
        }
    }

    /// About ten ticks fit into T.
    fn tick(&self) -> Duration {
        const SHORTEST: Duration = Duration::from_millis(10);
        const LONGEST: Duration = Duration::from_millis(300);
        (self.limits.fence / 10).clamp(SHORTEST, LONGEST)
    }

    /// How long a router may take to answer one message.
    fn message_timeout(&self) -> Duration {
        const SHORTEST: Duration = Duration::from_secs(1);
        const LONGEST: Duration = Duration::from_secs(5);
        self.limits.fence.clamp(SHORTEST, LONGEST)
    }

    fn start<'a>(
        &'a self,
        action: Action,
        known: &BTreeMap<String, RouterEntry>,
        in_flight: &mut InFlight<'a>,
    ) {
        let store = &self.store;
        match action {
            Action::Read => in_flight
                .store
                .push(Box::pin(async { Event::Read(store.read().await) })),
            Action::List => in_flight
                .store
                .push(Box::pin(async { Event::Listed(store.routers().await) })),
            Action::Replace(version, truth) => in_flight.store.push(Box::pin(async move {
                let what = if truth.prepared.is_some() {
                    "preparing"
                } else {
                    "deciding"
                };
                kill_point::pass(format_args!("before {what} a change"));
                let replaced = store.replace(&version, &truth).await;
                kill_point::pass(format_args!("after {what} a change"));
                Event::Replaced(replaced)
            })),
            Action::Send {
                router,
                number,
                message,
            } => {
                let Some(entry) = known.get(&router).cloned() else {
                    return;
                };
                let count = in_flight.counts.entry(router).or_default();
                if *count < MAX_MESSAGES_TO_A_ROUTER {
                    *count += 1;
                    let sent = self.send(entry, number, message);
                    in_flight.routers.push(Box::pin(sent));
                }
            }
        }
    }

    async fn send(&self, entry: RouterEntry, number: u64, message: Message) -> Event {
        let limit = self.message_timeout();
        let sent = self.agents.send(&entry, &message, limit).await;
        let router = entry.name;
        match sent {
            Ok(report) if report.name == router => Event::Reported {
                router,
                number,
                report,
            },
            Ok(report) => Event::Unreached {
                error: PortError::Invalid(format!(
                    "{} answered as router {}",
                    entry.url, report.name
                )),
                router,
            },
            Err(error) => Event::Unreached { router, error },
        }
    }

    /// Lets the last messages leave: they end a fence, or tell an outcome that a router would learn later.
    async fn finish(&self, mut in_flight: InFlight<'_>) {
        const PATIENCE: Duration = Duration::from_millis(200);
        let sent = async { while in_flight.routers.next().await.is_some() {} };
        let _ = timeout(PATIENCE, sent).await;
    }
}

impl InFlight<'_> {
    fn count_answer(&mut self, event: &Event) {
        if let Event::Reported { router, .. } | Event::Unreached { router, .. } = event
            && let Some(count) = self.counts.get_mut(router)
        {
            *count = count.saturating_sub(1);
        }
    }
}

/// The time on a clock that never goes back.
fn now() -> Duration {
    use std::sync::LazyLock;
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGAN.elapsed()
}
