//! Follows the store: registers the router, reads the truth, and lets the router obey it.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::{
    agent::{boot_time, keeper::Keeper, log::note},
    cluster::Truth,
    ports::{PortError, RouterEntry, TruthStore, Version},
};

/// How often an agent looks whether it is still registered.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// An agent that follows a store.
pub(super) struct Follower<'a> {
    pub(super) keeper: &'a Keeper,
    pub(super) store: &'a dyn TruthStore,
    pub(super) name: &'a str,
    /// The URL of this agent.
    pub(super) url: &'a str,
    /// The time between two reads.
    pub(super) interval: Duration,
    /// The incarnation that is registered.
    registered: Option<u64>,
    last_check: Instant,
    /// The last problem, so that each is noted once.
    problem: Option<String>,
}

/// Another agent has this router's name.
#[derive(Debug, thiserror::Error)]
#[error("another agent registered as {name:?} later: give each router a name of its own (--name)")]
pub(super) struct NameTaken {
    name: String,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        keeper: &'a Keeper,
        store: &'a dyn TruthStore,
        name: &'a str,
        url: &'a str,
        interval: Duration,
    ) -> Self {
        Self {
            keeper,
            store,
            name,
            url,
            interval,
            registered: None,
            last_check: Instant::now(),
            problem: None,
        }
    }

    /// Polls the store until another agent takes the name.
    pub(super) async fn follow(&mut self) -> NameTaken {
        loop {
            let began = Instant::now();
            match self.poll().await {
                Ok(()) => self.note_problem(None),
                Err(Problem::Taken(taken)) => return taken,
                Err(Problem::Passing(text)) => self.note_problem(Some(text)),
            }
            let left = self.interval.saturating_sub(began.elapsed());
            // A store that answers at once must not be asked without a pause.
            sleep(left.max(Duration::from_millis(5))).await;
        }
    }

    async fn poll(&mut self) -> Result<(), Problem> {
        self.register().await?;
        let (incarnation, question) = {
            let mut life = self.keeper.life();
            let question = life.state.ask(boot_time::now());
            (life.incarnation, question)
        };
        let (truth, version) = self.store.read().await?;
        let abort = {
            let mut life = self.keeper.life();
            // A question of an earlier life is no question of this one.
            if life.incarnation != incarnation {
                return Ok(());
            }
            let now = boot_time::now();
            life.state.read_answered(question, &truth, now);
            life.state.abort_of(&truth, now)
        };
        self.keeper.keep_gate().await;
        let obeyed = self.keeper.obey().await;
        self.keeper.keep_gate().await;
        if let Some(abort) = abort {
            self.abort(&version, &abort).await?;
        }
        obeyed?;
        self.check_registration().await
    }

    /// Registers the incarnation at work, before it reads the truth by which it opens.
    async fn register(&mut self) -> Result<(), Problem> {
        let incarnation = self.keeper.life().incarnation;
        if self.registered == Some(incarnation) {
            return Ok(());
        }
        let entry = RouterEntry {
            name: self.name.to_owned(),
            url: self.url.to_owned(),
            incarnation,
        };
        self.store.register(&entry).await?;
        self.registered = Some(incarnation);
        self.last_check = Instant::now();
        let mut life = self.keeper.life();
        if life.incarnation == incarnation {
            life.state.registered();
        }
        Ok(())
    }

    /// A router that is not in the list would miss the next change without anybody waiting for it. So it closes.
    async fn check_registration(&mut self) -> Result<(), Problem> {
        if self.last_check.elapsed() < CHECK_INTERVAL {
            return Ok(());
        }
        let routers = self.store.routers().await?;
        self.last_check = Instant::now();
        let incarnation = self.keeper.life().incarnation;
        match routers.iter().find(|router| router.name == self.name) {
            Some(entry) if entry.incarnation > incarnation => Err(Problem::Taken(NameTaken {
                name: self.name.to_owned(),
            })),
            Some(entry) if entry.incarnation == incarnation => Ok(()),
            Some(_) | None if self.registered == Some(incarnation) => {
                note("closed the router, because the store does not list it any more");
                self.keeper.start_anew().await;
                self.register().await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Aborts the change of a deployer that is silent. If another writer was faster, the next read tells.
    async fn abort(&self, version: &Version, abort: &Truth) -> Result<(), Problem> {
        note(format_args!(
            "aborts the change to generation {}: its deployer is silent",
            abort.generation
        ));
        self.store
            .replace(version, abort)
            .await
            .map(drop)
            .map_err(|error| Problem::Passing(format!("cannot abort it: {error}")))
    }

    /// Removes the router from the store. It must be closed.
    pub(super) async fn unregister(&self, patience: Duration) {
        let incarnation = self.keeper.life().incarnation;
        let unregistered = self.store.unregister(self.name, incarnation);
        match timeout(patience, unregistered).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => note(format_args!("cannot unregister: {error}")),
            Err(_) => note("cannot unregister: the store does not answer"),
        }
    }

    fn note_problem(&mut self, problem: Option<String>) {
        if self.problem != problem {
            match &problem {
                Some(text) => note(text),
                None => note("the store answers, and nginx obeys"),
            }
            self.problem = problem;
        }
    }
}

enum Problem {
    /// It may be gone at the next poll.
    Passing(String),
    Taken(NameTaken),
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        Self::Passing(error.to_string())
    }
}
