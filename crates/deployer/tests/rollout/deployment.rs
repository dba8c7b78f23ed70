//! A deployment of v2 to green, while blue serves v1, on fake ports and virtual time.

use std::{
    cell::RefCell,
    future::pending,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use deployer::{
    adapters::StateDirectory,
    color::Color,
    config::{self, GateName, Settings},
    deployment::{
        decisions::Decisions,
        phase::Phase,
        plan::Plan,
        recover,
        restore::restore_release,
        rollout::{Outcome, Rollout},
        scope::Scope,
    },
    examples::{Example, Examples},
    ports::JournalStore as _,
    release::{HeldRelease, Release},
    report::Reports,
    request_reader::RequestReader,
    shutdown::Stop,
    state::{journal::Journal, journal_entries::DeploymentEntry},
};
use futures_util::{FutureExt as _, future::BoxFuture};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    fake_ports::{FakePorts, State},
    faults::{CallFault, CallMatcher, FailingCalls, Interference},
    server::{Server, digest},
    trace::{Call, Collector, Trace},
};

/// The color that has the traffic before the deployment.
pub(crate) const OLD: Color = Color::Blue;
/// The color that the deployer starts the candidate on.
pub(crate) const CANDIDATE: Color = Color::Green;

/// The numbers of all matching calls.
pub(crate) const ALWAYS: Range<usize> = 0..usize::MAX;

/// What an operator does during a deployment with these ports and this state directory.
pub(crate) type Operator = Box<dyn FnOnce(FakePorts, PathBuf) -> BoxFuture<'static, ()>>;

/// A deployment that has not started.
pub(crate) struct Deployment {
    pub(crate) state: State,
    pub(crate) settings: Settings,
    pub(crate) has_request_log: bool,
    pub(crate) active_down: bool,
    /// What asks the deployer to stop, and when.
    pub(crate) stops: Vec<(Duration, Stop)>,
    /// What an operator does meanwhile. When it returns, the deployer is killed.
    pub(crate) operator: Option<Operator>,
    pub(crate) directory: TempDir,
}

/// A deployment that ran to its end.
pub(crate) struct FinishedDeployment {
    pub(crate) outcome: Outcome,
    pub(crate) trace: Trace,
    pub(crate) active: Color,
    /// On virtual time.
    pub(crate) took: Duration,
    pub(crate) journal: Option<DeploymentEntry>,
    /// Whether the router still copies requests.
    pub(crate) shadow_is_on: bool,
}

/// A deployment whose deployer may have been killed, and the state that a recovery finds.
pub(crate) struct InterruptedDeployment {
    pub(crate) fake_ports: FakePorts,
    /// `None` if the deployer was killed.
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

/// 100 test inputs with the expected label "good".
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
    /// A deployment with a bake of 10 s, 12 s for a candidate without progress, 10 smoke requests, and 50 client
    /// requests per second.
    pub(crate) fn of(candidate: Server) -> Self {
        let directory = tempfile::tempdir().expect("a directory for the journal");
        let file = directory.path().join("deployer.toml");
        std::fs::write(
            &file,
            "[gates]\nrun = [\"identity\", \"reachable\", \"smoke\"]\n[health]\nstall = \"12s\"\n[smoke]\nrequests = 10\n[bake]\nduration = \"10s\"",
        )
        .expect("a settings file");
        Self {
            state: State::new(candidate),
            settings: config::load(Some(&file), &[]).expect("valid settings"),
            has_request_log: true,
            active_down: false,
            stops: Vec::new(),
            operator: None,
            directory,
        }
    }

    /// Injects a fault into the matching calls with these numbers.
    pub(crate) fn failing_calls(
        mut self,
        numbers: Range<usize>,
        matcher: CallMatcher,
        fault: CallFault,
    ) -> Self {
        self.state.faults.failing.push(FailingCalls {
            matcher,
            numbers,
            fault,
            matched: 0,
        });
        self
    }

    /// Changes the state once, right after the first matching call.
    pub(crate) fn interfere_after(
        mut self,
        matcher: CallMatcher,
        interference: impl FnOnce(&mut State) + Send + 'static,
    ) -> Self {
        let interference: Interference = Box::new(interference);
        self.state.faults.interference = Some((matcher, interference));
        self
    }

    /// Runs these gates.
    pub(crate) fn with_gates(mut self, gates: &[GateName]) -> Self {
        self.settings.gates.run = gates.to_vec();
        self
    }

    /// No client sends requests.
    pub(crate) fn without_clients(mut self) -> Self {
        self.state.clients_per_second = 0.0;
        self
    }

    pub(crate) fn without_request_log(mut self) -> Self {
        self.has_request_log = false;
        self
    }

    /// Runs the deployment to its end, and asserts the invariants of every deployment.
    pub(crate) async fn run(self) -> FinishedDeployment {
        let finished = self.run_with_interference().await;
        finished.trace.assert_invariants(&plan());
        finished
            .trace
            .assert_final_state(&plan(), &finished.outcome);
        let journal = finished.journal.as_ref().expect("a journal entry");
        assert_eq!(journal.phase, finished.outcome.phase);
        assert_eq!(journal.reason.as_ref(), Some(&finished.outcome.reason));
        finished
    }

    /// Runs the deployment to its end without asserting the invariants: interference may break them.
    pub(crate) async fn run_with_interference(self) -> FinishedDeployment {
        let interrupted = self.run_to_end_or_kill().await;
        let state = interrupted.fake_ports.lock();
        FinishedDeployment {
            outcome: interrupted
                .outcome
                .clone()
                .expect("the deployer was not killed"),
            trace: state.trace.clone(),
            active: state.active,
            took: interrupted.took,
            shadow_is_on: state.shadow,
            journal: last_entry(interrupted.directory.path()),
        }
    }

    /// Runs the deployment to its end, or to the call at which the deployer is killed.
    pub(crate) async fn run_to_end_or_kill(self) -> InterruptedDeployment {
        const TIMEOUT: Duration = Duration::from_mins(10);

        // Both colors have finished loading, and clients have sent requests.
        tokio::time::advance(Duration::from_mins(1)).await;
        let began = Instant::now();
        let stops = RefCell::new(self.stops.into_iter());
        let fake_ports = FakePorts::new(self.state);
        let path = self.directory.path().to_owned();
        let reporter = Collector {
            fake_ports: fake_ports.clone(),
            directory: path.clone(),
        };
        let run = async {
            let ports = fake_ports.ports(&path, self.has_request_log);
            let journal = Journal::lock(&ports, "deploy v2").await.expect("a lock");
            let rollout = Rollout {
                settings: &self.settings,
                plan: &plan(),
                scope: Scope::of_flag(self.active_down),
                examples: &examples(),
                ports: &ports,
                requests: RequestReader::new(ports.request_log.as_deref(), &reporter),
                journal: &journal,
                decisions: Decisions::about(&plan().id, &path),
                reporter: &reporter,
            };
            rollout
                .run(|| {
                    let next = stops.borrow_mut().next();
                    async move {
                        match next {
                            Some((at, stop)) => {
                                tokio::time::sleep_until(began + at).await;
                                stop
                            }
                            None => pending().await,
                        }
                    }
                })
                .await
        };
        let operator = self.operator.map_or_else(
            || pending().boxed(),
            |operator| operator(fake_ports.clone(), path.clone()),
        );
        let run = tokio::time::timeout(TIMEOUT, Box::pin(run));
        let outcome = tokio::select! {
            outcome = run => outcome.ok(),
            () = operator => None,
        };
        InterruptedDeployment {
            fake_ports,
            outcome,
            took: began.elapsed(),
            directory: self.directory,
        }
    }
}

impl FinishedDeployment {
    /// Asserts the last phase, and that the reason contains `reason`.
    pub(crate) fn assert_outcome(&self, phase: Phase, reason: &str) {
        assert_eq!(self.outcome.phase, phase, "{}", self.outcome.reason);
        assert!(
            self.outcome.reason.contains(reason),
            "{reason:?} is not in {:?}",
            self.outcome.reason
        );
    }

    pub(crate) fn count(&self, call: &Call) -> usize {
        self.trace.count(call)
    }
}

impl InterruptedDeployment {
    /// Recovers the state with a new deployer.
    pub(crate) async fn recover(&self) -> anyhow::Result<recover::Recovery> {
        let ports = self.fake_ports.ports(self.directory.path(), true);
        let journal = Journal::lock(&ports, "deploy v3").await.expect("a lock");
        let reporter = Collector {
            fake_ports: self.fake_ports.clone(),
            directory: self.directory.path().to_owned(),
        };
        self.fake_ports.lock().faults.kill_at = None;
        let reports = Reports::of(self.directory.path());
        recover::recover(&ports, &journal, &reports, &reporter).await
    }

    /// Recovers the state, and kills the recovering deployer right after the first matching call.
    pub(crate) async fn recover_and_kill_after(&self, matcher: CallMatcher) {
        let kill: Interference = Box::new(|state| state.faults.killed = true);
        self.fake_ports.lock().faults.interference = Some((matcher, kill));
        let recovered = tokio::time::timeout(Duration::from_mins(5), self.recover()).await;
        assert!(recovered.is_err(), "the recovery was not killed");
        self.fake_ports.lock().faults.killed = false;
    }

    /// Gives the idle color its release back. Before the deployment it held v0, and was fit or not.
    pub(crate) async fn restore(&self, idle_was_fit: bool) -> bool {
        let digest = Some(digest("v0"));
        self.restore_release("v0", digest, idle_was_fit).await
    }

    /// The same for any release.
    pub(crate) async fn restore_release(
        &self,
        version: &str,
        digest: Option<String>,
        idle_was_fit: bool,
    ) -> bool {
        let ports = self.fake_ports.ports(self.directory.path(), true);
        let journal = Journal::lock(&ports, "recover").await.expect("a lock");
        let entry = self.last_entry().expect("a deployment");
        let plan = Plan {
            idle_was_fit,
            idle_release: Some(HeldRelease {
                version: version.to_owned(),
                image: None,
                digest,
            }),
            idle_ran: true,
            ..entry.plan
        };
        let written = journal.record_phase(&plan, entry.phase, entry.reason.as_deref());
        written.await.expect("a journal");
        let reporter = Collector {
            fake_ports: self.fake_ports.clone(),
            directory: self.directory.path().to_owned(),
        };
        let settings = config::load(None, &[]).expect("valid settings");
        restore_release(&settings.health, &ports, &journal, None, &reporter).await
    }

    /// Resumes the bake with a new deployer.
    pub(crate) async fn resume(&self) -> Outcome {
        let ports = self.fake_ports.ports(self.directory.path(), true);
        let journal = Journal::lock(&ports, "recover").await.expect("a lock");
        let deployment = Deployment::of(Server::good());
        let reporter = Collector {
            fake_ports: self.fake_ports.clone(),
            directory: self.directory.path().to_owned(),
        };
        Rollout {
            settings: &deployment.settings,
            plan: &plan(),
            scope: Scope::Compared,
            examples: &examples(),
            ports: &ports,
            requests: RequestReader::new(ports.request_log.as_deref(), &reporter),
            journal: &journal,
            decisions: Decisions::about(&plan().id, self.directory.path()),
            reporter: &reporter,
        }
        .resume(pending::<Stop>)
        .await
    }

    pub(crate) fn last_entry(&self) -> Option<DeploymentEntry> {
        last_entry(self.directory.path())
    }
}

/// The last deployment in the journal; `None` if the journal is empty or unreadable.
pub(crate) fn last_entry(state: &Path) -> Option<DeploymentEntry> {
    let state = StateDirectory::new(state);
    let read = state.read().now_or_never().expect("a file is read at once");
    read.ok()?.deployment
}
