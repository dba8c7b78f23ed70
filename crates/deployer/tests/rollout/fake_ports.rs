//! Fake ports. They share one simulated state, apply the injected faults, and record every call in the trace. One
//! file, because all of them share that state.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use deployer::{
    adapters::StateDirectory,
    color::Color,
    deployment::{phase::Phase, plan::Plan},
    doctor::finding::Finding,
    evidence::{
        load::{LoadPlan, LoadResult},
        request::{Attempt, Request, Route},
    },
    examples::Example,
    ports::{
        Activity, Clock, Flags, Fleet, FleetDiagnosis, HookPoint, Hooks, LogCursor, LogPart,
        OnSilentRouter, PortError, Ports, Prediction, Probe, Repeat, RequestLog, Router,
        RouterLimits, Service, ServiceState, Switched, Target,
    },
    release::Health,
};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    deployment::{CANDIDATE, OLD},
    faults::{CallFault, InjectedFaults},
    server::{Server, ServerFault},
    trace::{Call, Trace, TraceEntry, TraceEvent},
};

/// A port that never answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hanging {
    /// `inspect` never returns.
    Fleet,
    /// Reading the router's log never returns.
    RequestLog,
    /// `start` never returns.
    Start,
}

/// Records when a start is abandoned.
struct RecordWhenDropped<'a>(&'a FakePorts);

impl Drop for RecordWhenDropped<'_> {
    fn drop(&mut self) {
        let called = TraceEvent::PortCalled(Call::AbandonStart, true);
        self.0.lock().record(called);
    }
}

/// The simulated router, servers, clients, and logs.
pub(crate) struct State {
    pub(crate) active: Color,
    pub(crate) fit: Vec<Color>,
    pub(crate) blue: Server,
    pub(crate) green: Server,
    /// The server that `start` starts.
    pub(crate) candidate: Server,
    /// A server that the router reaches instead of the wanted color.
    pub(crate) router_reaches: Option<Server>,
    /// The color that answers public health checks instead of the active one.
    pub(crate) public_color: Option<Color>,
    /// All logged requests.
    pub(crate) logged_requests: Vec<Request>,
    /// Whether the router writes its access log.
    pub(crate) writes_log: bool,
    /// Whether the router copies requests to the idle color.
    pub(crate) shadow: bool,
    /// All logged copies.
    pub(crate) shadow_log: Vec<Request>,
    /// Where a hook fails.
    pub(crate) failing_hook: Option<(HookPoint, Phase)>,
    /// What never answers, if anything does not.
    pub(crate) hanging: Option<Hanging>,
    pub(crate) clients_per_second: f64,
    clients_simulated_until: Instant,
    pub(crate) faults: InjectedFaults,
    pub(crate) trace: Trace,
}

impl State {
    /// Blue has the traffic, and green is its standby.
    pub(crate) fn new(candidate: Server) -> Self {
        let now = Instant::now();
        Self {
            active: Color::Blue,
            fit: Color::BOTH.to_vec(),
            blue: Server::good().started("v1"),
            green: Server::good().started("v0"),
            candidate,
            router_reaches: None,
            public_color: None,
            logged_requests: Vec::new(),
            writes_log: true,
            shadow: false,
            shadow_log: Vec::new(),
            failing_hook: None,
            hanging: None,
            clients_per_second: 50.0,
            clients_simulated_until: now,
            faults: InjectedFaults::default(),
            trace: Trace::default(),
        }
    }

    pub(crate) fn server(&mut self, color: Color) -> &mut Server {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }

    /// The server that the router tries first, or the only one.
    fn server_at(&mut self, target: Target) -> &mut Server {
        match target {
            Target::Server(color) | Target::ThroughRouter(color) => self.server(color),
            Target::Public => self.server(self.active),
        }
    }

    pub(crate) fn record(&mut self, event: TraceEvent) {
        let entry = TraceEntry {
            event,
            active: self.active,
            fit: self.fit.clone(),
        };
        self.trace.0.push(entry);
    }

    pub(crate) fn move_traffic_to(&mut self, color: Color) {
        if self.active != color {
            self.active = color;
            self.server(color).active_since = Some(Instant::now());
        }
    }

    /// Sends one prediction through the router, which logs it, and repeats a failure on a fit standby.
    fn request(&mut self, by_deployer: bool) -> Result<Prediction, PortError> {
        let wanted = self.active;
        let standby = Some(wanted.other()).filter(|color| self.fit.contains(color));
        let mut request = Request {
            at: VirtualClock.now().as_millisecond() as f64 / 1e3,
            by_deployer,
            id: self.logged_requests.len().to_string(),
            // Clients send inputs of different lengths.
            size: self.logged_requests.len() as u64 % 300,
            ..unanswered_request(wanted)
        };
        let mut answer = Err(PortError::Unreachable("no server answered".to_owned()));
        for color in std::iter::once(wanted).chain(standby) {
            answer = self.server(color).predict(true);
            let attempt = attempt(color, &answer);
            request.status = attempt.status.unwrap_or_default();
            request.attempts.push(attempt);
            if let Ok(answer) = &answer {
                request.label.clone_from(&answer.label);
                request.waited = answer.took;
                break;
            }
        }
        if self.shadow {
            self.copy_to_idle_color(&request.id);
        }
        if self.writes_log {
            self.logged_requests.push(request);
        }
        answer
    }

    fn copy_to_idle_color(&mut self, id: &str) {
        let idle = self.active.other();
        let answer = self.server(idle).predict(true);
        let attempt = attempt(idle, &answer);
        self.shadow_log.push(Request {
            id: id.to_owned(),
            status: attempt.status.unwrap_or_default(),
            attempts: vec![attempt],
            label: answer.ok().and_then(|answer| answer.label),
            ..unanswered_request(idle)
        });
    }

    /// Sends the requests that clients have sent since the last call of this function.
    fn simulate_clients(&mut self) {
        let elapsed = self.clients_simulated_until.elapsed().as_secs_f64();
        self.clients_simulated_until = Instant::now();
        let mut due = elapsed * self.clients_per_second;
        while due >= 1.0 {
            let _ = self.request(false);
            due -= 1.0;
        }
    }

    fn health(&mut self, target: Target) -> Result<Health, PortError> {
        match target {
            Target::Server(color) => self.server(color).health(),
            Target::ThroughRouter(color) => match &self.router_reaches {
                Some(another) => another.health(),
                None => self.server(color).health(),
            },
            Target::Public => {
                let color = self.public_color.unwrap_or(self.active);
                let standby = color.other();
                match self.server(color).health() {
                    Err(_) if self.fit.contains(&standby) => self.server(standby).health(),
                    answer => answer,
                }
            }
        }
    }
}

/// A request that no server answered.
pub(crate) fn unanswered_request(wanted: Color) -> Request {
    Request {
        route: Route {
            method: "POST".to_owned(),
            path: "/predict".to_owned(),
        },
        wanted: Some(wanted),
        status: 502,
        ..Request::default()
    }
}

/// An attempt with this answer.
fn attempt(color: Color, answer: &Result<Prediction, PortError>) -> Attempt {
    let took = answer.as_ref().map_or(Duration::ZERO, |answer| answer.took);
    Attempt {
        to_head: Some(took),
        to_end: Some(took),
        ..answered_attempt(color, if answer.is_ok() { 200 } else { 500 })
    }
}

/// An attempt that the color answered with this status.
pub(crate) fn answered_attempt(color: Color, status: u16) -> Attempt {
    Attempt {
        color,
        status: Some(status),
        to_head: Some(Duration::ZERO),
        to_end: Some(Duration::ZERO),
    }
}

/// A request at this Unix time that the router sent to the old color without trying the candidate.
pub(crate) fn passed_over_at(seconds: f64) -> Request {
    Request {
        at: seconds,
        status: 200,
        attempts: vec![answered_attempt(OLD, 200)],
        ..unanswered_request(CANDIDATE)
    }
}

/// All ports, on one shared state.
#[derive(Clone)]
pub(crate) struct FakePorts(Arc<Mutex<State>>);

impl FakePorts {
    pub(crate) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no fake panics")
    }

    /// The ports of a deployer with this state directory, whose files are real.
    pub(crate) fn ports(&self, state: &Path, has_request_log: bool) -> Ports {
        let request_log: Box<dyn RequestLog> = Box::new(self.clone());
        Ports {
            router: Box::new(self.clone()),
            flags: Box::new(self.clone()),
            request_log: has_request_log.then_some(request_log),
            shadow_log: Some(Box::new(ShadowLog(self.clone()))),
            fleet: Box::new(self.clone()),
            probe: Box::new(self.clone()),
            hooks: Box::new(self.clone()),
            lock: Box::new(StateDirectory::new(state)),
            journal: Box::new(StateDirectory::new(state)),
            clock: Box::new(VirtualClock),
        }
    }

    /// Makes a call with the injected faults, and records it. A killed deployer waits forever.
    async fn call<T>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let kill = self.lock().faults.kill_at_next_call();
        if kill == Some(CallFault::Before) {
            std::future::pending::<()>().await;
        }
        let result = self.attempt(&call, effect);
        if kill == Some(CallFault::After) || self.lock().faults.killed {
            std::future::pending::<()>().await;
        }
        result
    }

    fn attempt<T>(
        &self,
        call: &Call,
        effect: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let state = &mut *self.lock();
        let number = state.faults.count_call();
        let failure = || Err(PortError::Other(format!("{call:?} failed")));
        let result = match state.faults.fault_of(number, call) {
            Some(CallFault::Before) => failure(),
            Some(CallFault::After) => effect(state).and_then(|_| failure()),
            None => effect(state),
        };
        state.record(TraceEvent::PortCalled(call.clone(), result.is_ok()));
        if let Some(interference) = state.faults.take_interference(call) {
            interference(state);
            state.record(TraceEvent::Other);
        }
        result
    }
}

/// A clock that follows tokio's virtual time. Each thread runs one test.
struct VirtualClock;

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        thread_local! {
            static BEGAN: Instant = Instant::now();
        }
        let elapsed = BEGAN.with(Instant::elapsed);
        Timestamp::UNIX_EPOCH + elapsed
    }
}

#[async_trait]
impl Router for FakePorts {
    async fn check_flags(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn active(&self) -> Result<Color, PortError> {
        self.call(Call::Active, |state| Ok(state.active)).await
    }

    async fn switch_to(
        &self,
        color: Color,
        _silent: OnSilentRouter,
    ) -> Result<Switched, PortError> {
        self.call(Call::SwitchTo(color), |state| {
            state.simulate_clients();
            let displaced = state.active;
            state.move_traffic_to(color);
            Ok(Switched::confirmed(displaced))
        })
        .await
    }

    async fn in_flight(&self) -> Result<u64, PortError> {
        Ok(0)
    }

    async fn limits(&self) -> Result<Option<RouterLimits>, PortError> {
        let read = Duration::from_mins(2);
        Ok(Some(RouterLimits {
            read,
            longest_read: read,
            next_upstream: None,
            upstream_idle: None,
        }))
    }

    async fn repeat(&self) -> Result<Repeat, PortError> {
        Ok(Repeat::Always)
    }
}

#[async_trait]
impl Flags for FakePorts {
    async fn active(&self) -> Result<Color, PortError> {
        self.call(Call::ReadActive, |state| Ok(state.active)).await
    }

    async fn is_fit(&self, color: Color) -> Result<bool, PortError> {
        self.call(Call::ReadFit(color), |state| Ok(state.fit.contains(&color)))
            .await
    }

    async fn set_fit(&self, color: Color, fit: bool) -> Result<(), PortError> {
        self.call(Call::SetFit(color, fit), |state| {
            state.fit.retain(|other| *other != color);
            if fit {
                state.fit.push(color);
            }
            Ok(())
        })
        .await
    }

    async fn is_shadow(&self) -> Result<bool, PortError> {
        self.call(Call::ReadShadow, |state| Ok(state.shadow)).await
    }

    async fn set_shadow(&self, on: bool) -> Result<(), PortError> {
        self.call(Call::SetShadow(on), |state| {
            state.simulate_clients();
            state.shadow = on;
            Ok(())
        })
        .await
    }
}

/// Waits as long as a probe waits for a server that hangs.
async fn time_out() -> PortError {
    const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

    tokio::time::sleep(PROBE_TIMEOUT).await;
    PortError::TimedOut("timed out".to_owned())
}

/// The log of copied requests.
struct ShadowLog(FakePorts);

#[async_trait]
impl RequestLog for ShadowLog {
    async fn read(&self, after: Option<LogCursor>) -> Result<LogPart, PortError> {
        Ok(part(&self.0.lock().shadow_log, after))
    }
}

#[async_trait]
impl RequestLog for FakePorts {
    async fn read(&self, after: Option<LogCursor>) -> Result<LogPart, PortError> {
        if self.lock().hanging == Some(Hanging::RequestLog) {
            std::future::pending::<()>().await;
        }
        self.call(Call::ReadLog, |state| {
            state.simulate_clients();
            Ok(part(&state.logged_requests, after))
        })
        .await
    }
}

/// The requests of a log after this position.
fn part(logged: &[Request], after: Option<LogCursor>) -> LogPart {
    let after = after.map_or(0, |after| {
        usize::try_from(after.position()).unwrap_or_default()
    });
    LogPart {
        requests: logged.get(after..).unwrap_or(logged).to_vec(),
        unparsable: 0,
        next: LogCursor::at(logged.len() as u64),
        problem: None,
        missing: None,
    }
}

#[async_trait]
impl Fleet for FakePorts {
    async fn start_router(&self) -> Result<(), PortError> {
        self.call(Call::StartRouter, |_| Ok(())).await
    }

    async fn prepare(&self, _color: Color, _version: &str) -> Result<(), PortError> {
        match self.lock().candidate.fault {
            ServerFault::CannotBePrepared => {
                Err(PortError::ProgramFailed("no registry".to_owned()))
            }
            _ => Ok(()),
        }
    }

    async fn start(&self, color: Color, version: &str) -> Result<(), PortError> {
        if self.lock().hanging == Some(Hanging::Start) {
            let _abandoned = RecordWhenDropped(self);
            std::future::pending::<()>().await;
        }
        self.call(Call::Start(color, version.to_owned()), |state| {
            if state.candidate.fault == ServerFault::CannotStart {
                return Err(PortError::ProgramFailed("no such image".to_owned()));
            }
            *state.server(color) = state.candidate.started(version);
            Ok(())
        })
        .await
    }

    async fn stop(&self, service: Service) -> Result<(), PortError> {
        self.call(Call::Stop(service), |state| {
            if let Service::Server(color) = service {
                let server = state.server(color);
                (server.fault, server.later_fault) = (ServerFault::Exited, None);
            }
            Ok(())
        })
        .await
    }

    async fn inspect(&self, service: Service) -> Result<(ServiceState, Option<String>), PortError> {
        if self.lock().hanging == Some(Hanging::Fleet) {
            std::future::pending::<()>().await;
        }
        self.call(Call::Inspect(service), |state| {
            let Service::Server(color) = service else {
                return Ok((ServiceState::Running, None));
            };
            let server = state.server(color);
            let state = match server.current_fault() {
                ServerFault::Exited => ServiceState::Stopped("exit code 3".to_owned()),
                _ => ServiceState::Running,
            };
            Ok((state, Some(server.version.clone())))
        })
        .await
    }

    async fn prune(&self, _keep: usize) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl FleetDiagnosis for FakePorts {
    async fn diagnose(&self) -> Vec<Finding> {
        Vec::new()
    }

    async fn activity(&self, color: Color) -> Activity {
        if self.lock().hanging == Some(Hanging::Fleet) {
            std::future::pending::<()>().await;
        }
        let state = &mut *self.lock();
        let server = state.server(color);
        (server.activity)(server.started.elapsed())
    }

    async fn logs(&self, service: Service, _lines: usize) -> Vec<String> {
        let lines = vec!["these are its last log lines".to_owned()];
        self.call(Call::Logs(service), |_| Ok(lines))
            .await
            .unwrap_or_default()
    }
}

#[async_trait]
impl Probe for FakePorts {
    async fn health(&self, target: Target) -> Result<Health, PortError> {
        if self.lock().server_at(target).hangs_on_health() {
            return Err(time_out().await);
        }
        self.call(Call::Health(target), |state| state.health(target))
            .await
    }

    async fn predict(&self, target: Target, _: &Example) -> Result<Prediction, PortError> {
        let through_router = !matches!(target, Target::Server(_));
        let hangs = self
            .lock()
            .server_at(target)
            .hangs_on_prediction(through_router);
        if hangs {
            return Err(time_out().await);
        }
        self.call(Call::Predict(target), |state| match target {
            Target::Server(color) => state.server(color).predict(false),
            Target::ThroughRouter(color) => state.server(color).predict(true),
            Target::Public => state.request(true),
        })
        .await
    }

    async fn load(
        &self,
        target: Target,
        _: Arc<[Example]>,
        plan: LoadPlan,
    ) -> Result<LoadResult, PortError> {
        let Target::Server(color) = target else {
            panic!("load must go to a server itself, not to {target:?}");
        };
        let load = self.call(Call::Load(target), |state| {
            if state.server(color).current_fault() == ServerFault::SlowsOtherUnderLoad {
                state.server(color.other()).fault = ServerFault::Slow(200);
            }
            Ok(state.server(color).load(plan))
        });
        let load = load.await?;
        tokio::time::sleep(plan.duration).await;
        Ok(load)
    }
}

#[async_trait]
impl Hooks for FakePorts {
    async fn run(
        &self,
        point: HookPoint,
        phase: Phase,
        _: &Plan,
        _: Option<&str>,
    ) -> Result<(), PortError> {
        if self.lock().failing_hook == Some((point, phase)) {
            return Err(PortError::ProgramFailed("the hook fails".to_owned()));
        }
        Ok(())
    }
}
