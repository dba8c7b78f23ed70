//! A machine in a temporary directory. Flags, journal, history, reports, and lock are real files.
//! Servers and router are simulated; the router obeys the flags. One file, because all of it shares one state.

use std::{
    any::Any,
    cell::RefCell,
    collections::BTreeMap,
    convert::Infallible,
    fs,
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use tempfile::TempDir;

use crate::{
    adapters::{StateDirectory, SystemClock, nginx::flags::FlagDirectory},
    color::Color,
    commands::{
        deploy::{self, ToDeploy},
        monitor,
        output::CommandOutput,
        recover, rollback, status, switch,
    },
    config::{self, ApprovalPoint, OnInterrupt, Settings},
    deployment::{phase::Phase, plan::Plan, scope::Scope},
    doctor::finding::Finding,
    event::{Event, Reporter},
    evidence::load::{LoadPlan, LoadResult},
    examples::Example,
    kill_point::{self, in_process},
    ports::{
        Fleet, FleetDiagnosis, HookPoint, Hooks, JournalStore as _, OnSilentRouter, PortError,
        Ports, Prediction, Probe, Repeat, Router, RouterLimits, Service, ServiceState, Switched,
        Target,
    },
    release::Health,
    state::{
        journal::Journal,
        operator_request::{OperatorCommand, OperatorRequest, OperatorRequests},
    },
};

/// The panic payload of a killed command.
struct Killed;

/// A simulated server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// The running version.
    pub(super) running: Option<String>,
    /// The version that the fleet recorded at the last start.
    recorded_version: String,
}

impl Server {
    fn started(version: &str) -> Self {
        Self {
            running: Some(version.to_owned()),
            recorded_version: version.to_owned(),
        }
    }
}

/// The state that outlives a deployer: files by path, and servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    files: BTreeMap<PathBuf, Vec<u8>>,
    servers: [Server; 2],
    /// Releases that may be fit: the first active one, each one that finished its bake and its hook, and each one
    /// that a person switched to.
    proven: Vec<(Color, String)>,
}

impl Snapshot {
    /// The files without the lock, which names the last command.
    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, &Vec<u8>)> {
        self.files
            .iter()
            .filter(|(path, _)| !path.ends_with("lock"))
    }
}

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// `deployer deploy VERSION`
    Deploy(&'static str),
    /// `deployer deploy VERSION` with a hook that fails before this phase.
    DeployWithFailingHook(&'static str, Phase),
    /// `deployer deploy VERSION` with a router that lets another release answer after the switch.
    DeployBehindWrongRouter(&'static str),
    /// `deployer deploy VERSION` that waits for approval before the switch and before the promotion, and gets it.
    DeployWithApproval(&'static str),
    /// `deployer rollback`
    Rollback,
    /// `deployer switch COLOR`
    Switch(Color),
    /// `deployer recover`
    Recover,
    /// `deployer recover --on-interrupt continue`
    Resume,
    /// `deployer monitor --set monitor.failover=true`
    Monitor,
}

/// How a command ended.
pub(super) enum Ending {
    /// The command ended by itself.
    Completed(anyhow::Result<CommandOutput>),
    /// The command was killed.
    Killed,
}

/// An ended command.
pub(super) struct Run {
    /// The passed kill points. A killed command was killed at the last one.
    pub(super) points: Vec<String>,
    pub(super) ending: Ending,
}

/// The flags as nginx sees them.
pub(super) struct SetFlags {
    green: bool,
    fit: [bool; 2],
}

impl SetFlags {
    pub(super) fn active(&self) -> Color {
        if self.green {
            Color::Green
        } else {
            Color::Blue
        }
    }

    pub(super) fn is_fit(&self, color: Color) -> bool {
        self.fit[index(color)]
    }
}

/// A machine with two servers, a router, and the files of the deployer.
pub(super) struct Machine {
    directory: TempDir,
    pub(super) settings: Settings,
    simulation: Simulation,
}

const SETTINGS: &str = r#"
state = "state"

[release]
model_root = ""

[router]
flags = "flags"
configuration = ""
access_log = ""
error_log = ""
shadow_log = ""

[probe]
inputs = "inputs.jsonl"

[gates]
run = ["identity", "reachable", "smoke"]

[smoke]
requests = 1

[bake]
duration = "1s"
interval = "1s"
on_inconclusive = "promote"

[monitor]
failover = true
interval = "100ms"
fall = 2
rise = 1
"#;

impl Machine {
    /// After the first `deployer up`: v1 on blue has the traffic, v0 runs on green, and nothing was deployed.
    pub(super) fn fresh() -> Self {
        Self::with([Server::started("v1"), Server::started("v0")])
    }

    fn with(servers: [Server; 2]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["state", "flags"] {
            fs::create_dir(path(name)).expect("a directory");
        }
        fs::write(path("inputs.jsonl"), "{\"input\": {}}\n").expect("a file");
        fs::write(path("deployer.toml"), SETTINGS).expect("a file");
        let settings = config::load(Some(&path("deployer.toml")), &[]).expect("valid settings");
        let simulation = Simulation {
            directory: directory.path().to_owned(),
            servers: Arc::new(Mutex::new(servers)),
            proven: Arc::new(Mutex::new(vec![(Color::Blue, "v1".to_owned())])),
            wrong_router: false,
        };
        Self {
            directory,
            settings,
            simulation,
        }
    }

    /// A machine with the files and servers of the snapshot.
    pub(super) fn restore(snapshot: &Snapshot) -> Self {
        let machine = Self::with(snapshot.servers.clone());
        machine
            .simulation
            .proven
            .lock()
            .expect("no panic")
            .clone_from(&snapshot.proven);
        for (path, content) in &snapshot.files {
            let path = machine.directory.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, content).expect("a file");
        }
        machine
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        self.simulation.snapshot()
    }

    pub(super) fn flags(&self) -> SetFlags {
        self.simulation.flags()
    }

    /// The state directory, without the lock.
    pub(super) fn journal(&self) -> StateDirectory {
        self.simulation.state_directory()
    }

    /// Damages the journal, as an editor might.
    pub(super) fn damage_journal(&self) {
        fs::write(self.directory.path().join("state/journal.json"), "{").expect("a file");
    }

    pub(super) fn file_exists(&self, path: &str) -> bool {
        self.directory.path().join(path).exists()
    }

    pub(super) fn server(&self, color: Color) -> Server {
        self.simulation.servers()[index(color)].clone()
    }

    /// Crashes the server on `color`.
    pub(super) fn crash(&self, color: Color) {
        self.simulation.servers()[index(color)].running = None;
    }

    /// The version that answers clients.
    pub(super) fn public_version(&self) -> Option<String> {
        self.simulation.version_at(Target::Public)
    }

    pub(super) fn is_proven(&self, color: Color, version: &str) -> bool {
        self.simulation.is_proven(color, version)
    }

    /// Runs a command, and kills it after this many kill points.
    ///
    /// A kill is a panic, so the command's `Drop` implementations run, which SIGKILL would skip. This checks
    /// that they change nothing that outlives the process.
    pub(super) async fn run(&self, command: Command, kill_at: Option<usize>) -> Run {
        let points = Rc::new(RefCell::new(Vec::new()));
        let at_kill = Rc::new(RefCell::new(None));
        let observer = in_process::observe({
            let (points, at_kill, simulation) =
                (points.clone(), at_kill.clone(), self.simulation.clone());
            move |name| {
                assert!(
                    simulation.version_at(Target::Public).is_some(),
                    "no server answers clients at {name:?}"
                );
                let number = points.borrow().len();
                points.borrow_mut().push(name.to_owned());
                if kill_at == Some(number) {
                    *at_kill.borrow_mut() = Some(simulation.snapshot());
                    // Skips the panic hook, which would print thousands of messages.
                    resume_unwind(Box::new(Killed));
                }
            }
        });
        let result = AssertUnwindSafe(self.execute(command)).catch_unwind().await;
        drop(observer);
        let points = points.take();
        let ending = match result {
            Ok(output) => Ending::Completed(output),
            Err(payload) => {
                self.assert_killed(payload, at_kill.take().as_ref());
                Ending::Killed
            }
        };
        Run { points, ending }
    }

    /// Asserts that the panic is the kill, and that unwinding changed nothing since.
    fn assert_killed(&self, payload: Box<dyn Any + Send>, at_kill: Option<&Snapshot>) {
        if !payload.is::<Killed>() {
            resume_unwind(payload);
        }
        assert_eq!(
            at_kill,
            Some(&self.snapshot()),
            "a `Drop` implementation changed the machine; SIGKILL would skip it"
        );
    }

    async fn execute(&self, command: Command) -> anyhow::Result<CommandOutput> {
        let performed = Box::pin(self.perform(command));
        if !matches!(command, Command::DeployWithApproval(_)) {
            return performed.await;
        }
        tokio::select! {
            biased;
            output = performed => output,
            never = self.approve_everything() => match never {},
        }
    }

    /// A person who approves each question.
    async fn approve_everything(&self) -> Infallible {
        const PAUSE: Duration = Duration::from_millis(20);

        let requests = OperatorRequests::of(&self.settings.state);
        loop {
            let entries = self.journal().read().await.unwrap_or_default();
            let waiting = entries.deployment.and_then(|entry| entry.waiting);
            if let Some(waiting) = waiting {
                let reason = Some("a reason".to_owned());
                // An earlier approval may have no answer yet.
                let _ = requests.send(&OperatorRequest {
                    evidence: Some(waiting.evidence),
                    ..OperatorRequest::new(OperatorCommand::Approve, Timestamp::now(), reason)
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn perform(&self, command: Command) -> anyhow::Result<CommandOutput> {
        let mut settings = self.settings.clone();
        if let Command::DeployWithApproval(_) = command {
            settings.approval.before = vec![ApprovalPoint::Switched, ApprovalPoint::Promoted];
        }
        let simulation = Simulation {
            wrong_router: matches!(command, Command::DeployBehindWrongRouter(_)),
            ..self.simulation.clone()
        };
        let hook = match command {
            Command::DeployWithFailingHook(_, phase) => Some(phase),
            _ => None,
        };
        let reporter = ProofRecorder::new(&simulation, hook);
        let ports = simulation.ports(hook);
        let command_line = format!("{command:?}");
        let lock = || Journal::lock(&ports, &command_line);
        match command {
            Command::Deploy(version)
            | Command::DeployWithFailingHook(version, _)
            | Command::DeployWithApproval(version)
            | Command::DeployBehindWrongRouter(version) => {
                deploy::run(
                    &settings,
                    ToDeploy {
                        version: Some(version.to_owned()),
                        scope: Scope::Compared,
                        reason: None,
                    },
                    &lock().await?,
                    &ports,
                    &reporter,
                )
                .await
            }
            Command::Rollback => {
                rollback::run_with_lock(&settings, None, &lock().await?, &ports, &reporter).await
            }
            Command::Switch(color) => {
                // `deployer switch` needs no proof: the user vouches for the release.
                if let Some(version) = self.server(color).running {
                    simulation.mark_proven(color, version);
                }
                switch::run(&settings, color, &lock().await?, &ports, &reporter).await
            }
            Command::Recover => recover::run(&settings, &lock().await?, &ports, &reporter).await,
            Command::Resume => {
                let journal = lock().await?;
                settings.bake.on_interrupt = OnInterrupt::Continue;
                recover::run(&settings, &journal, &ports, &reporter).await
            }
            Command::Monitor => {
                const MONITOR_TIME: Duration = Duration::from_secs(5);
                let monitor = monitor::run(&settings, &ports, &reporter);
                match tokio::time::timeout(MONITOR_TIME, monitor).await {
                    Ok(output) => output,
                    Err(_) => Ok(CommandOutput::success("stopped")),
                }
            }
        }
    }

    /// The output of `deployer status --json`.
    pub(super) async fn status(&self) -> serde_json::Value {
        let ports = self.simulation.clone().ports(None);
        let output = status::run(&self.settings, &ports).await;
        output.expect("a status").object
    }
}

/// Marks a release as proven when it finishes its bake, unless a hook blocks its promotion.
struct ProofRecorder {
    simulation: Simulation,
    failing_hook: Option<Phase>,
    candidate: Mutex<Option<(Color, String)>>,
}

impl ProofRecorder {
    fn new(simulation: &Simulation, failing_hook: Option<Phase>) -> Self {
        Self {
            simulation: simulation.clone(),
            failing_hook,
            candidate: Mutex::new(None),
        }
    }
}

impl Reporter for ProofRecorder {
    fn report(&self, event: &Event<'_>) {
        let mut candidate = self.candidate.lock().expect("no panic");
        match event {
            Event::Planned { plan } | Event::Resumed { plan, .. } => {
                *candidate = Some((plan.idle, plan.release.version.clone()));
            }
            Event::GateFinished {
                gate: "bake",
                verdict,
            } if verdict.lets_through() && self.failing_hook != Some(Phase::Promoted) => {
                let (color, version) = candidate.clone().expect("a candidate");
                self.simulation.mark_proven(color, version);
            }
            _ => {}
        }
    }
}

/// The ports of this machine.
#[derive(Clone)]
struct Simulation {
    directory: PathBuf,
    servers: Arc<Mutex<[Server; 2]>>,
    proven: Arc<Mutex<Vec<(Color, String)>>>,
    /// Whether another release answers clients while an unproven one has the traffic.
    wrong_router: bool,
}

impl Simulation {
    fn ports(&self, failing_hook: Option<Phase>) -> Ports {
        Ports {
            router: Box::new(self.clone()),
            flags: Box::new(self.flag_directory()),
            request_log: None,
            shadow_log: None,
            fleet: Box::new(self.clone()),
            probe: Box::new(self.clone()),
            hooks: Box::new(FailingHook(failing_hook)),
            lock: Box::new(self.state_directory()),
            journal: Box::new(self.state_directory()),
            clock: Box::new(SystemClock),
        }
    }

    fn state_directory(&self) -> StateDirectory {
        StateDirectory::new(&self.directory.join("state"))
    }

    fn flag_directory(&self) -> FlagDirectory {
        FlagDirectory::new(self.directory.join("flags"))
    }

    fn flags(&self) -> SetFlags {
        let is_set = |name| self.directory.join("flags").join(name).exists();
        SetFlags {
            green: is_set("green"),
            fit: ["fit-blue", "fit-green"].map(is_set),
        }
    }

    fn servers(&self) -> MutexGuard<'_, [Server; 2]> {
        self.servers.lock().expect("no panic")
    }

    fn is_proven(&self, color: Color, version: &str) -> bool {
        let proven = self.proven.lock().expect("no panic");
        proven
            .iter()
            .any(|(on, of)| (*on, of.as_str()) == (color, version))
    }

    fn mark_proven(&self, color: Color, version: String) {
        self.proven.lock().expect("no panic").push((color, version));
    }

    fn snapshot(&self) -> Snapshot {
        let mut files = BTreeMap::new();
        for name in ["state", "flags"] {
            read_files(&self.directory, Path::new(name), &mut files);
        }
        Snapshot {
            files,
            servers: self.servers().clone(),
            proven: self.proven.lock().expect("no panic").clone(),
        }
    }

    /// The version that answers at `target`.
    fn version_at(&self, target: Target) -> Option<String> {
        let servers = self.servers();
        let running = |color| servers[index(color)].running.clone();
        match target {
            Target::Server(color) | Target::ThroughRouter(color) => running(color),
            Target::Public => {
                let active = self.flags().active();
                let standby = active.other();
                let standby_is_fit = self.flags().is_fit(standby);
                running(active).or_else(|| running(standby).filter(|_| standby_is_fit))
            }
        }
    }
}

fn read_files(root: &Path, directory: &Path, files: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(root.join(directory)).expect("a directory") {
        let entry = entry.expect("an entry");
        let path = directory.join(entry.file_name());
        if entry.path().is_dir() {
            read_files(root, &path, files);
        } else {
            files.insert(path, fs::read(entry.path()).expect("a file"));
        }
    }
}

pub(super) fn index(color: Color) -> usize {
    usize::from(color == Color::Green)
}

#[async_trait]
impl Router for Simulation {
    async fn check_flags(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn active(&self) -> Result<Color, PortError> {
        Ok(self.flags().active())
    }

    async fn switch_to(
        &self,
        color: Color,
        _silent: OnSilentRouter,
    ) -> Result<Switched, PortError> {
        let displaced = self.flags().active();
        self.flag_directory().activate(color)?;
        Ok(Switched::confirmed(displaced))
    }

    async fn in_flight(&self) -> Result<u64, PortError> {
        Ok(0)
    }

    async fn limits(&self) -> Result<Option<RouterLimits>, PortError> {
        Ok(None)
    }

    async fn repeat(&self) -> Result<Repeat, PortError> {
        Ok(Repeat::Always)
    }
}

#[async_trait]
impl Fleet for Simulation {
    async fn start_router(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn start(&self, color: Color, version: &str) -> Result<(), PortError> {
        self.stop(Service::Server(color)).await?;
        kill_point::pass(format_args!("before starting {color}"));
        self.servers()[index(color)].running = Some(version.to_owned());
        kill_point::pass(format_args!("after starting {color}"));
        version.clone_into(&mut self.servers()[index(color)].recorded_version);
        Ok(())
    }

    async fn stop(&self, service: Service) -> Result<(), PortError> {
        let Service::Server(color) = service else {
            panic!("no command but `down` stops the router");
        };
        kill_point::pass(format_args!("before stopping {color}"));
        self.servers()[index(color)].running = None;
        kill_point::pass(format_args!("after stopping {color}"));
        Ok(())
    }

    async fn inspect(&self, service: Service) -> Result<(ServiceState, Option<String>), PortError> {
        let Service::Server(color) = service else {
            return Ok((ServiceState::Running, None));
        };
        let server = self.servers()[index(color)].clone();
        let state = match server.running {
            Some(_) => ServiceState::Running,
            None => ServiceState::Stopped("it crashed".to_owned()),
        };
        Ok((state, Some(server.recorded_version)))
    }

    async fn prune(&self, _keep: usize) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl FleetDiagnosis for Simulation {
    async fn diagnose(&self) -> Vec<Finding> {
        Vec::new()
    }

    async fn logs(&self, _service: Service, _lines: usize) -> Vec<String> {
        Vec::new()
    }
}

#[async_trait]
impl Probe for Simulation {
    async fn health(&self, target: Target) -> Result<Health, PortError> {
        let mut version = self.version_at(target).ok_or_else(refused)?;
        let wrong = self.wrong_router && target == Target::Public;
        if wrong && !self.is_proven(self.flags().active(), &version) {
            "another".clone_into(&mut version);
        }
        Ok(Health {
            model_name: Some("sentiment".to_owned()),
            model_version: Some(version),
            ..Health::default()
        })
    }

    async fn predict(&self, target: Target, _example: &Example) -> Result<Prediction, PortError> {
        self.version_at(target).ok_or_else(refused)?;
        Ok(Prediction {
            label: Some("positive".to_owned()),
            confidence: Some(0.9),
            took: Duration::from_millis(1),
            stream: None,
        })
    }

    async fn load(
        &self,
        _target: Target,
        _examples: Arc<[Example]>,
        _plan: LoadPlan,
    ) -> Result<LoadResult, PortError> {
        panic!("the gates of these tests send no load")
    }
}

fn refused() -> PortError {
    PortError::Unreachable("connection refused".to_owned())
}

/// Hooks that fail before this phase.
struct FailingHook(Option<Phase>);

#[async_trait]
impl Hooks for FailingHook {
    async fn run(
        &self,
        point: HookPoint,
        phase: Phase,
        _plan: &Plan,
        _reason: Option<&str>,
    ) -> Result<(), PortError> {
        if point == HookPoint::Before && self.0 == Some(phase) {
            return Err(PortError::ProgramFailed("the hook fails".to_owned()));
        }
        Ok(())
    }
}
