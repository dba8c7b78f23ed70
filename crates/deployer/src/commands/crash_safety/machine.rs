//! A machine in a temporary directory. The flag directory, the journal, the history, the intent, the
//! reports and the lock are real. The two servers and the router are simulated: the router is the flags.

use std::{
    any::Any,
    cell::RefCell,
    collections::BTreeMap,
    fs,
    panic::{AssertUnwindSafe, resume_unwind},
    path::{Path, PathBuf},
    rc::Rc,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tempfile::TempDir;

use super::super::{Done, deploy, recover, rollback, status, switch, watch};
use crate::{
    adapters::nginx::Flags,
    color::Color,
    config::{self, OnInterrupt, Settings},
    diagnosis::Finding,
    event::{Event, Reporter},
    examples::Example,
    journal::Journal,
    kill_point::{self, in_process},
    load::{Load, LoadPlan},
    phase::Phase,
    plan::Plan,
    ports::{
        Answer, Fleet, Hooks, Probe, Router, RouterLimits, Service, State, Target, When, World,
        WorldError,
    },
    release::Health,
};

/// What ends the command of a process that is killed.
struct Killed;

/// A server: the version that runs, and the one that was started last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) runs: Option<String>,
    recorded: String,
}

impl Server {
    fn started(version: &str) -> Self {
        Self {
            runs: Some(version.to_owned()),
            recorded: version.to_owned(),
        }
    }
}

/// Everything that outlives a deployer: files by their paths, and servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    files: BTreeMap<PathBuf, Vec<u8>>,
    servers: [Server; 2],
    /// What may stand in: the first active release, each one that passed the watch and its hook, and each
    /// one that a person switched to.
    proven: Vec<(Color, String)>,
}

impl Snapshot {
    /// The files but for the lock, which names the last command.
    pub(super) fn files(&self) -> impl Iterator<Item = (&PathBuf, &Vec<u8>)> {
        self.files
            .iter()
            .filter(|(path, _)| !path.ends_with("lock"))
    }
}

/// What is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// `deployer deploy VERSION`
    Deploy(&'static str),
    /// The same with a hook that fails before this phase.
    DeployWithFailingHook(&'static str, Phase),
    /// The same with a router that lets another release answer clients after the switch.
    DeployBehindWrongRouter(&'static str),
    /// `deployer rollback`
    Rollback,
    /// `deployer switch COLOR`
    Switch(Color),
    /// `deployer recover`
    Recover,
    /// `deployer recover --on-interrupt continue`
    Resume,
    /// `deployer watch --set monitor.failover=true`
    Monitor,
}

/// How a command ended.
pub(super) enum Ending {
    /// By itself.
    Done(anyhow::Result<Done>),
    /// It was killed.
    Killed,
}

/// A command that ended.
pub(super) struct Run {
    /// The kill points that it passed. The last one is where it was killed, if it was.
    pub(super) points: Vec<String>,
    pub(super) ending: Ending,
}

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
shadow_log = ""

[probe]
inputs = "inputs.jsonl"

[gates]
run = ["identity", "reachable", "smoke"]

[smoke]
requests = 1

[watch]
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
    /// After the first `deployer up`: v1 on blue has the traffic, v0 runs on green, nothing was deployed.
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

    /// A machine in this state.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
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

    pub(super) fn flags(&self) -> Flags {
        self.simulation.flags()
    }

    /// Whether there is such a file.
    pub(super) fn has(&self, path: &str) -> bool {
        self.directory.path().join(path).exists()
    }

    pub(super) fn server(&self, color: Color) -> Server {
        self.simulation.servers()[index(color)].clone()
    }

    /// The server on `color` dies.
    pub(super) fn crash(&self, color: Color) {
        self.simulation.servers()[index(color)].runs = None;
    }

    /// The version that answers clients.
    pub(super) fn answers_clients(&self) -> Option<String> {
        self.simulation.answering(Target::Public)
    }

    pub(super) fn is_proven(&self, color: Color, version: &str) -> bool {
        self.simulation.is_proven(color, version)
    }

    /// Runs a command, and kills it when it has passed so many kill points.
    ///
    /// A kill is a panic, so the command's `Drop` impls run, which do not run after SIGKILL. None of them
    /// may change what outlives the process: this compares it from before and after.
    pub(super) async fn run(&self, command: Command, kill_at: Option<usize>) -> Run {
        let points = Rc::new(RefCell::new(Vec::new()));
        let left = Rc::new(RefCell::new(None));
        let observed = in_process::observe({
            let (points, left, simulation) =
                (points.clone(), left.clone(), self.simulation.clone());
            move |name| {
                assert!(
                    simulation.answering(Target::Public).is_some(),
                    "no server answers clients at {name:?}"
                );
                let number = points.borrow().len();
                points.borrow_mut().push(name.to_owned());
                if kill_at == Some(number) {
                    *left.borrow_mut() = Some(simulation.snapshot());
                    // Without the panic hook, which would print thousands of messages.
                    resume_unwind(Box::new(Killed));
                }
            }
        });
        let ended = AssertUnwindSafe(self.execute(command)).catch_unwind().await;
        drop(observed);
        let points = points.take();
        let ending = match ended {
            Ok(done) => Ending::Done(done),
            Err(payload) => {
                self.assert_killed(payload, left.take().as_ref());
                Ending::Killed
            }
        };
        Run { points, ending }
    }

    fn assert_killed(&self, payload: Box<dyn Any + Send>, left: Option<&Snapshot>) {
        if !payload.is::<Killed>() {
            resume_unwind(payload);
        }
        assert_eq!(
            left,
            Some(&self.snapshot()),
            "a `Drop` impl changed it, which SIGKILL would not"
        );
    }

    async fn execute(&self, command: Command) -> anyhow::Result<Done> {
        let mut settings = self.settings.clone();
        let simulation = Simulation {
            wrong_router: matches!(command, Command::DeployBehindWrongRouter(_)),
            ..self.simulation.clone()
        };
        let hook = match command {
            Command::DeployWithFailingHook(_, phase) => Some(phase),
            _ => None,
        };
        let reporter = Witness::of(&simulation, hook);
        let world = simulation.world(hook);
        let words = format!("{command:?}");
        let lock = || Journal::lock(&settings.state, &words);
        match command {
            Command::Deploy(version)
            | Command::DeployWithFailingHook(version, _)
            | Command::DeployBehindWrongRouter(version) => {
                deploy::run(
                    &settings,
                    Some(version.to_owned()),
                    false,
                    &lock()?,
                    &world,
                    &reporter,
                )
                .await
            }
            Command::Rollback => rollback::run(&settings, &lock()?, &world, &reporter).await,
            Command::Switch(color) => {
                // A switch by hand asks for no proof: its user vouches for the release.
                if let Some(version) = self.server(color).runs {
                    simulation.trust(color, version);
                }
                switch::run(color, &lock()?, &world, &reporter).await
            }
            Command::Recover => recover::run(&settings, &lock()?, &world, &reporter).await,
            Command::Resume => {
                let journal = lock()?;
                settings.watch.on_interrupt = OnInterrupt::Continue;
                recover::run(&settings, &journal, &world, &reporter).await
            }
            Command::Monitor => {
                const LONG_ENOUGH: Duration = Duration::from_secs(5);
                let monitor = watch::run(&settings, &world, &reporter);
                match tokio::time::timeout(LONG_ENOUGH, monitor).await {
                    Ok(ended) => ended,
                    Err(_) => Ok(Done::fine("stopped")),
                }
            }
        }
    }

    /// What `deployer status --json` says.
    pub(super) async fn status(&self) -> serde_json::Value {
        let world = self.simulation.clone().world(None);
        let done = status::run(&self.settings, &world).await;
        done.expect("a status").object
    }
}

/// Notes which release passes the watch, unless a hook keeps it from being promoted.
struct Witness {
    simulation: Simulation,
    hook: Option<Phase>,
    candidate: Mutex<Option<(Color, String)>>,
}

impl Witness {
    fn of(simulation: &Simulation, hook: Option<Phase>) -> Self {
        Self {
            simulation: simulation.clone(),
            hook,
            candidate: Mutex::new(None),
        }
    }
}

impl Reporter for Witness {
    fn report(&self, event: &Event<'_>) {
        let mut candidate = self.candidate.lock().expect("no panic");
        match event {
            Event::Planned { plan } | Event::Resumed { plan, .. } => {
                *candidate = Some((plan.idle, plan.release.version.clone()));
            }
            Event::Judged {
                gate: "watch",
                verdict,
            } if verdict.lets_through() && self.hook != Some(Phase::Promoted) => {
                let (color, version) = candidate.clone().expect("a candidate");
                self.simulation.trust(color, version);
            }
            _ => {}
        }
    }
}

/// The ports.
#[derive(Clone)]
struct Simulation {
    directory: PathBuf,
    servers: Arc<Mutex<[Server; 2]>>,
    proven: Arc<Mutex<Vec<(Color, String)>>>,
    /// Whether another release answers clients while a release has the traffic that was not proven.
    wrong_router: bool,
}

impl Simulation {
    fn world(&self, failing_hook: Option<Phase>) -> World {
        World {
            router: Box::new(self.clone()),
            traffic: None,
            shadow: None,
            fleet: Box::new(self.clone()),
            probe: Box::new(self.clone()),
            hooks: Box::new(FailingHook(failing_hook)),
        }
    }

    fn flags(&self) -> Flags {
        Flags::of(self.directory.join("flags"))
    }

    fn servers(&self) -> MutexGuard<'_, [Server; 2]> {
        self.servers.lock().expect("no panic")
    }

    fn is_proven(&self, color: Color, version: &str) -> bool {
        let proven = self.proven.lock().expect("no panic");
        proven
            .iter()
            .any(|(of, it)| (*of, it.as_str()) == (color, version))
    }

    fn trust(&self, color: Color, version: String) {
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

    fn answering(&self, target: Target) -> Option<String> {
        let servers = self.servers();
        let runs = |color| servers[index(color)].runs.clone();
        match target {
            Target::Server(color) | Target::ThroughRouter(color) => runs(color),
            Target::Public => {
                let active = self.flags().active();
                let standby = active.other();
                let stands_in = self.flags().is_fit(standby);
                runs(active).or_else(|| runs(standby).filter(|_| stands_in))
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
    async fn sees_flags(&self) -> Result<(), WorldError> {
        Ok(())
    }

    async fn active(&self) -> Result<Color, WorldError> {
        Ok(self.flagged())
    }

    async fn point_at(&self, color: Color) -> Result<Color, WorldError> {
        let displaced = self.flagged();
        self.flags().activate(color)?;
        Ok(displaced)
    }

    fn flagged(&self) -> Color {
        self.flags().active()
    }

    fn is_fit(&self, color: Color) -> bool {
        self.flags().is_fit(color)
    }

    fn set_fit(&self, color: Color, fit: bool) -> Result<(), WorldError> {
        self.flags().set_fit(color, fit)
    }

    fn set_shadow(&self, on: bool) -> Result<(), WorldError> {
        self.flags().set_shadow(on)
    }

    fn limits(&self) -> Result<Option<RouterLimits>, WorldError> {
        Ok(None)
    }
}

#[async_trait]
impl Fleet for Simulation {
    async fn start_router(&self) -> Result<(), WorldError> {
        Ok(())
    }

    async fn start(&self, color: Color, version: &str) -> Result<(), WorldError> {
        self.stop(Service::Server(color)).await?;
        kill_point::pass(format_args!("before starting {color}"));
        self.servers()[index(color)].runs = Some(version.to_owned());
        kill_point::pass(format_args!("after starting {color}"));
        version.clone_into(&mut self.servers()[index(color)].recorded);
        Ok(())
    }

    async fn stop(&self, service: Service) -> Result<(), WorldError> {
        let Service::Server(color) = service else {
            panic!("no command but `down` stops the router");
        };
        kill_point::pass(format_args!("before stopping {color}"));
        self.servers()[index(color)].runs = None;
        kill_point::pass(format_args!("after stopping {color}"));
        Ok(())
    }

    async fn inspect(&self, service: Service) -> Result<(State, Option<String>), WorldError> {
        let Service::Server(color) = service else {
            return Ok((State::Running, None));
        };
        let server = self.servers()[index(color)].clone();
        let state = match server.runs {
            Some(_) => State::Running,
            None => State::Stopped("it is gone".to_owned()),
        };
        Ok((state, Some(server.recorded)))
    }

    async fn prune(&self, _keep: usize) -> Result<(), WorldError> {
        Ok(())
    }

    async fn diagnose(&self) -> Vec<Finding> {
        Vec::new()
    }

    async fn logs(&self, _service: Service, _lines: usize) -> Vec<String> {
        Vec::new()
    }
}

#[async_trait]
impl Probe for Simulation {
    async fn health(&self, target: Target) -> Result<Health, WorldError> {
        let mut version = self.answering(target).ok_or_else(refused)?;
        let wrong = self.wrong_router && target == Target::Public;
        if wrong && !self.is_proven(self.flagged(), &version) {
            "another".clone_into(&mut version);
        }
        Ok(Health {
            model_name: Some("sentiment".to_owned()),
            model_version: Some(version),
            ..Health::default()
        })
    }

    async fn predict(&self, target: Target, _example: &Example) -> Result<Answer, WorldError> {
        self.answering(target).ok_or_else(refused)?;
        Ok(Answer {
            label: Some("positive".to_owned()),
            confidence: Some(0.9),
            took: Duration::from_millis(1),
        })
    }

    async fn load(
        &self,
        _target: Target,
        _examples: Arc<[Example]>,
        _plan: LoadPlan,
    ) -> Result<Load, WorldError> {
        panic!("no gate of these tests makes load")
    }
}

fn refused() -> WorldError {
    WorldError("connection refused".to_owned())
}

/// A hook that fails before this phase.
struct FailingHook(Option<Phase>);

#[async_trait]
impl Hooks for FailingHook {
    async fn run(
        &self,
        when: When,
        phase: Phase,
        _plan: &Plan,
        _reason: Option<&str>,
    ) -> Result<(), WorldError> {
        if when == When::Before && self.0 == Some(phase) {
            return Err(WorldError("the hook fails".to_owned()));
        }
        Ok(())
    }
}
