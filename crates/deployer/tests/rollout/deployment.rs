//! One deployment of v2 to green while blue serves v1, and what came of it.

use std::{cell::RefCell, ops::Range, sync::Arc, time::Duration};

use deployer::{
    color::Color,
    config::{self, GateName, Settings},
    deployment::{
        phase::Phase,
        plan::Plan,
        recover,
        rollout::{Outcome, Rollout},
    },
    examples::{Example, Examples},
    release::Release,
    state::journal::{self, Entry, Journal},
};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    fake_ports::{Scene, State},
    history::{Call, Collector, History},
    script::{Action, Failing, Fault, Which},
    server::{Server, digest},
};

/// The color that has the traffic.
pub(crate) const OLD: Color = Color::Blue;
/// The color that gets the candidate.
pub(crate) const CANDIDATE: Color = Color::Green;

/// Every call picked.
pub(crate) const ALWAYS: Range<usize> = 0..usize::MAX;

/// A deployment to be run.
pub(crate) struct Deployment {
    pub(crate) state: State,
    pub(crate) settings: Settings,
    pub(crate) readable_log: bool,
    pub(crate) active_down: bool,
    /// When somebody wants the deployer to end, since the deployment began.
    pub(crate) told_to_stop_at: Vec<Duration>,
    pub(crate) directory: TempDir,
}

/// A deployment that ended.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) history: History,
    pub(crate) active: Color,
    /// By the deployer's clock.
    pub(crate) took: Duration,
    pub(crate) journal: Option<Entry>,
    /// Whether clients' requests are still copied.
    pub(crate) left_shadow: bool,
}

/// A deployment whose deployer may have died, and the world that it left behind.
pub(crate) struct Left {
    pub(crate) scene: Scene,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) took: Duration,
    pub(crate) directory: TempDir,
}

pub(crate) fn plan() -> Plan {
    let release = Release {
        model: "sentiment".to_owned(),
        version: "v2".to_owned(),
        digest: Some(digest("v2")),
    };
    Plan::new(Timestamp::UNIX_EPOCH, OLD, release)
}

/// A hundred inputs to which "good" is right.
fn examples() -> Examples {
    let example = |number: u32| Example {
        body: number.to_string(),
        expect: Some("good".to_owned()),
    };
    let golden: Arc<[Example]> = (0..100).map(example).collect();
    Examples {
        agreement: Arc::clone(&golden),
        load: Arc::clone(&golden),
        golden,
    }
}

impl Deployment {
    /// Ten seconds of watching, five tries to become healthy, ten test requests; busy clients.
    pub(crate) fn of(candidate: Server) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the journal");
        let file = directory.path().join("deployer.toml");
        std::fs::write(
            &file,
            "[gates]\nrun = [\"identity\", \"reachable\", \"smoke\"]\n[health]\ntries = 5\n[smoke]\nrequests = 10\n[bake]\nduration = \"10s\"",
        )
        .expect("a settings file");
        Self {
            state: State::new(candidate),
            settings: config::load(Some(&file), &[]).expect("valid settings"),
            readable_log: true,
            active_down: false,
            told_to_stop_at: Vec::new(),
            directory,
        }
    }

    /// Of the calls picked, the ones with these numbers fail.
    pub(crate) fn failing(mut self, numbers: Range<usize>, which: Which, fault: Fault) -> Self {
        self.state.script.failing.push(Failing {
            which,
            numbers,
            fault,
            seen: 0,
        });
        self
    }

    /// Somebody does this right after the first call picked.
    pub(crate) fn then(
        mut self,
        which: Which,
        deed: impl FnOnce(&mut State) + Send + 'static,
    ) -> Self {
        let deed: Action = Box::new(deed);
        self.state.script.deed = Some((which, deed));
        self
    }

    /// These gates are asked, in the order in which the deployer asks them.
    pub(crate) fn asking(mut self, gates: &[GateName]) -> Self {
        self.settings.gates.run = gates.to_vec();
        self
    }

    /// Nobody but the deployer sends requests.
    pub(crate) fn quiet(mut self) -> Self {
        self.state.clients_per_second = 0.0;
        self
    }

    pub(crate) fn without_a_log(mut self) -> Self {
        self.readable_log = false;
        self
    }

    /// Runs it, and asserts what must be true of every deployment.
    pub(crate) async fn run(self) -> Ended {
        let ended = self.run_with_interference().await;
        ended.history.assert_sound_throughout(&plan());
        ended
            .history
            .assert_sound_at_the_end(&plan(), &ended.outcome);
        let journal = ended.journal.as_ref().expect("a journal was kept");
        assert_eq!(journal.phase, ended.outcome.phase);
        assert_eq!(journal.reason.as_ref(), Some(&ended.outcome.reason));
        ended
    }

    /// Runs it where others than the deployer change the world, so that less must be true.
    pub(crate) async fn run_with_interference(self) -> Ended {
        let left = self.run_while_it_lives().await;
        let state = left.scene.lock();
        Ended {
            outcome: left.outcome.clone().expect("nobody killed it"),
            history: state.history.clone(),
            active: state.active,
            took: left.took,
            left_shadow: state.shadow,
            journal: journal::last_entry(left.directory.path()).ok().flatten(),
        }
    }

    /// Runs it to its end or to the call that its deployer does not survive.
    pub(crate) async fn run_while_it_lives(self) -> Left {
        const FOREVER: Duration = Duration::from_mins(10);

        // Both colors have been up for a while.
        tokio::time::advance(Duration::from_mins(1)).await;
        let began = Instant::now();
        let signals = RefCell::new(self.told_to_stop_at.into_iter());
        let scene = Scene::new(self.state);
        let path = self.directory.path().to_owned();
        let reporter = Collector {
            scene: scene.clone(),
            directory: path.clone(),
        };
        let run = async {
            let journal = Journal::lock(&path, "deploy v2").expect("a lock");
            let rollout = Rollout {
                settings: &self.settings,
                plan: &plan(),
                active_down: self.active_down,
                examples: &examples(),
                ports: &scene.ports(self.readable_log),
                journal: &journal,
                reporter: &reporter,
            };
            rollout
                .run(|| {
                    let next = signals.borrow_mut().next();
                    async move {
                        match next {
                            Some(at) => tokio::time::sleep_until(began + at).await,
                            None => std::future::pending().await,
                        }
                    }
                })
                .await
        };
        let outcome = tokio::time::timeout(FOREVER, run).await.ok();
        Left {
            scene,
            outcome,
            took: began.elapsed(),
            directory: self.directory,
        }
    }
}

impl Ended {
    /// It ended like this, for a reason that contains these words.
    pub(crate) fn assert(&self, phase: Phase, words: &str) {
        assert_eq!(self.outcome.phase, phase, "{}", self.outcome.reason);
        assert!(
            self.outcome.reason.contains(words),
            "{words:?} is not in {:?}",
            self.outcome.reason
        );
    }

    pub(crate) fn count(&self, call: &Call) -> usize {
        self.history.count(call)
    }
}

impl Left {
    /// The next run of the deployer settles what this one left.
    pub(crate) async fn recover(&self) -> anyhow::Result<recover::Recovery> {
        let journal = Journal::lock(self.directory.path(), "deploy v3").expect("a lock");
        let reporter = Collector {
            scene: self.scene.clone(),
            directory: self.directory.path().to_owned(),
        };
        self.scene.lock().script.killed = None;
        recover::recover(&self.scene.ports(true), &journal, &reporter).await
    }

    /// The next run settles it, and is killed right after the first call picked.
    pub(crate) async fn settle_until(&self, which: Which) {
        let die: Action = Box::new(|state| state.script.dead = true);
        self.scene.lock().script.deed = Some((which, die));
        let settled = tokio::time::timeout(Duration::from_mins(5), self.recover()).await;
        assert!(settled.is_err(), "it lived on");
        self.scene.lock().script.dead = false;
    }

    /// The next run goes on watching the candidate.
    pub(crate) async fn resume(&self) -> Outcome {
        let journal = Journal::lock(self.directory.path(), "recover").expect("a lock");
        let deployment = Deployment::of(Server::good());
        let reporter = Collector {
            scene: self.scene.clone(),
            directory: self.directory.path().to_owned(),
        };
        Rollout {
            settings: &deployment.settings,
            plan: &plan(),
            active_down: false,
            examples: &examples(),
            ports: &self.scene.ports(true),
            journal: &journal,
            reporter: &reporter,
        }
        .resume(std::future::pending::<()>)
        .await
    }

    pub(crate) fn last(&self) -> Option<Entry> {
        journal::last_entry(self.directory.path()).expect("a readable journal")
    }
}
