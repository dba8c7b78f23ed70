//! A store and agents in this process.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

use crate::{
    adapters::agents::AgentRouters,
    cluster::{
        RouterFlags, Truth,
        message::{Prepare, RouterReport},
    },
    color::Color,
    config::{Settings, load},
    ports::{PortError, RouterEntry, TruthStore, Version, WriteError},
};

const TOKEN: &str = "0123456789abcdef";

/// How the store answers the next commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CommitAnswer {
    Given,
    /// The write lands, and its answer is lost.
    Lost,
    /// The write is lost.
    WriteLost,
}

/// A linearizable store.
pub(super) struct FakeStore {
    pub(super) truth: Mutex<(Truth, u64)>,
    pub(super) routers: Mutex<Vec<RouterEntry>>,
    pub(super) commit: Mutex<CommitAnswer>,
}

impl FakeStore {
    pub(super) fn truth(&self) -> Truth {
        self.truth.lock().unwrap().0.clone()
    }

    /// Leaves a change prepared, as a deployer does that dies.
    pub(super) fn leave_prepared(&self, flags: RouterFlags) {
        let mut truth = self.truth.lock().unwrap();
        truth.0 = truth.0.prepare(flags, "deploy v2 by a dead deployer");
        truth.1 += 1;
    }
}

#[async_trait]
impl TruthStore for FakeStore {
    async fn read(&self) -> Result<(Truth, Version), PortError> {
        let truth = self.truth.lock().unwrap();
        Ok((truth.0.clone(), Version(truth.1.to_string())))
    }

    async fn replace(&self, version: &Version, truth: &Truth) -> Result<Version, WriteError> {
        let mut stored = self.truth.lock().unwrap();
        if version.0 != stored.1.to_string() {
            return Err(WriteError::Conflict);
        }
        let lost = || WriteError::Unknown(PortError::TimedOut("no answer".to_owned()));
        let is_commit = stored.0.prepared.is_some() && truth.flags != stored.0.flags;
        let answer = if is_commit {
            std::mem::replace(&mut *self.commit.lock().unwrap(), CommitAnswer::Given)
        } else {
            CommitAnswer::Given
        };
        if answer == CommitAnswer::WriteLost {
            return Err(lost());
        }
        *stored = (truth.clone(), stored.1 + 1);
        match answer {
            CommitAnswer::Lost => Err(lost()),
            _ => Ok(Version(stored.1.to_string())),
        }
    }

    async fn routers(&self) -> Result<Vec<RouterEntry>, PortError> {
        Ok(self.routers.lock().unwrap().clone())
    }

    async fn register(&self, _router: &RouterEntry) -> Result<(), PortError> {
        unreachable!("the deployer registers no router")
    }

    async fn unregister(&self, _name: &str, _incarnation: u64) -> Result<(), PortError> {
        unreachable!("the deployer unregisters no router")
    }
}

/// What an agent and its nginx do.
pub(super) struct AgentState {
    pub(super) report: RouterReport,
    /// Whether it answers.
    pub(super) silent: bool,
    /// Whether its nginx obeys a new flag.
    pub(super) nginx_obeys: bool,
    /// Whether its nginx reaches green.
    pub(super) reaches_green: bool,
    pub(super) repeat: &'static str,
    pub(super) access_log: Option<Vec<u8>>,
}

/// An agent that answers over HTTP.
pub(super) struct FakeAgent {
    pub(super) state: Mutex<AgentState>,
    questions: AtomicU64,
}

impl FakeAgent {
    pub(super) fn lock(&self) -> MutexGuard<'_, AgentState> {
        self.state.lock().unwrap()
    }

    fn answer(&self, refusal: Option<&str>) -> Response {
        let mut report = self.lock().report.clone();
        report.question = self.questions.fetch_add(1, Ordering::Relaxed);
        report.refusal = refusal.map(str::to_owned);
        let status = match refusal {
            Some(_) => StatusCode::CONFLICT,
            None => StatusCode::OK,
        };
        (status, Json(report)).into_response()
    }
}

type Shared = State<Arc<FakeAgent>>;

async fn state(State(agent): Shared, headers: HeaderMap) -> Response {
    assert_eq!(headers["authorization"], format!("Bearer {TOKEN}"));
    agent.answer(None)
}

async fn prepare(State(agent): Shared, Json(prepare): Json<Prepare>) -> Response {
    let unreached = prepare.must_reach == Some(Color::Green) && !agent.lock().reaches_green;
    if unreached {
        return agent.answer(Some("its nginx does not reach green"));
    }
    agent.lock().report.promised = Some(prepare.generation);
    agent.answer(None)
}

async fn apply(State(agent): Shared, Json(truth): Json<Truth>) -> Response {
    {
        let mut state = agent.lock();
        if state.nginx_obeys && state.report.generation < Some(truth.generation) {
            state.report.generation = Some(truth.generation);
            state.report.flags = Some(truth.flags);
            state.report.active = Some(truth.flags.active);
            state.report.promised = None;
        }
    }
    agent.answer(None)
}

async fn other(State(agent): Shared) -> Response {
    agent.answer(None)
}

async fn log(State(agent): Shared, Path(name): Path<String>, uri: Uri) -> Response {
    let log = match name.as_str() {
        "access" => agent.lock().access_log.clone(),
        _ => Some(Vec::new()),
    };
    let Some(log) = log else {
        return (StatusCode::NOT_FOUND, "no such file").into_response();
    };
    let after = uri.query().and_then(|query| query.strip_prefix("after="));
    let after: usize = after.unwrap().parse().unwrap();
    // Small parts, so that a copy takes several.
    let part = log.iter().skip(after).take(500).copied();
    let body: Bytes = part.collect();
    ([("x-log-length", log.len().to_string())], body).into_response()
}

async fn control(State(agent): Shared, Path(path): Path<String>) -> Response {
    let state = agent.lock();
    match path.as_str() {
        "repeat" => state.repeat.into_response(),
        "green/health" if !state.reaches_green => StatusCode::BAD_GATEWAY.into_response(),
        _ => r#"{"model_version": "v2"}"#.into_response(),
    }
}

/// An agent that is silent accepts requests and never answers.
async fn unless_silent(
    State(agent): Shared,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    if agent.lock().silent {
        std::future::pending::<()>().await;
    }
    next.run(request).await
}

/// Routers, their store, and a deployer.
pub(super) struct Cluster {
    pub(super) store: Arc<FakeStore>,
    pub(super) agents: Vec<Arc<FakeAgent>>,
    pub(super) routers: AgentRouters,
    pub(super) settings: Settings,
    servers: Vec<JoinHandle<()>>,
    directory: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

impl Cluster {
    /// Routers named `r1`, `r2`, and so on, which send traffic to blue.
    pub(super) async fn of(count: usize) -> Self {
        let store = Arc::new(FakeStore {
            truth: Mutex::new((Truth::default(), 1)),
            routers: Mutex::default(),
            commit: Mutex::new(CommitAnswer::Given),
        });
        let (mut agents, mut servers) = (Vec::new(), Vec::new());
        for number in 1..=count {
            let name = format!("r{number}");
            let agent = Arc::new(agent(&name));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let app = Router::new()
                .route("/state", get(state))
                .route("/prepare", post(prepare))
                .route("/apply", post(apply))
                .route("/undecided", post(other))
                .route("/release", post(other))
                .route("/log/{name}", get(log))
                .route("/control/{*path}", get(control))
                .layer(axum::middleware::from_fn_with_state(
                    agent.clone(),
                    unless_silent,
                ))
                .with_state(agent.clone());
            servers.push(tokio::spawn(async move {
                axum::serve(listener, app).await.unwrap();
            }));
            store.routers.lock().unwrap().push(RouterEntry {
                name,
                url,
                incarnation: 1,
            });
            agents.push(agent);
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("deployer.toml");
        std::fs::write(&file, "").unwrap();
        let token_file: PathBuf = directory.path().join("token");
        std::fs::write(&token_file, TOKEN).unwrap();
        let overrides = [
            "routers.fence=300ms",
            "router.confirm_timeout=500ms",
            "router.configuration=",
        ];
        let settings = load(Some(&file), &overrides.map(str::to_owned)).unwrap();
        let routers = AgentRouters::new(store.clone(), &token_file, &settings).unwrap();
        Self {
            store,
            agents,
            routers,
            settings,
            servers,
            directory,
        }
    }

    /// The state directory.
    pub(super) fn state(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// The colors that the routers send requests to.
    pub(super) fn actives(&self) -> Vec<Color> {
        let agents = self.agents.iter();
        agents.map(|it| it.lock().report.active.unwrap()).collect()
    }
}

fn agent(name: &str) -> FakeAgent {
    let Truth {
        generation, flags, ..
    } = Truth::default();
    FakeAgent {
        state: Mutex::new(AgentState {
            report: RouterReport {
                name: name.to_owned(),
                incarnation: 1,
                generation: Some(generation),
                promised: None,
                open: true,
                flags: Some(flags),
                active: Some(flags.active),
                in_flight: Some(2),
                question: 0,
                refusal: None,
            },
            silent: false,
            nginx_obeys: true,
            reaches_green: true,
            repeat: "always\n",
            access_log: Some(Vec::new()),
        }),
        questions: AtomicU64::new(1),
    }
}
