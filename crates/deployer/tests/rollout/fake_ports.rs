//! The ports on one shared state, which keeps a history of its own.

use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use deployer::{
    color::Color,
    deployment::{phase::Phase, plan::Plan},
    doctor::finding::Finding,
    evidence::{
        load::{LoadPlan, LoadResult},
        request::Request,
    },
    examples::Example,
    ports::{
        Fleet, HookPoint, Hooks, PortError, Ports, Prediction, Probe, RequestLog, Router,
        RouterLimits, Service, ServiceState as Doing, Target,
    },
    release::Health,
};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::{
    deployment::{CANDIDATE, OLD},
    history::{Call, Happened, History, Moment},
    script::{Fault, Script},
    server::{Server, Trouble},
};

/// Everything that there is.
pub(crate) struct State {
    pub(crate) active: Color,
    pub(crate) fit: Vec<Color>,
    pub(crate) blue: Server,
    pub(crate) green: Server,
    /// What `start` starts.
    pub(crate) candidate: Server,
    /// The version that the router reaches instead of what runs.
    pub(crate) router_reaches: Option<Server>,
    /// The color that answers clients instead of the active one.
    pub(crate) public_answers: Option<Color>,
    /// The access log that was not read yet.
    pub(crate) log: Vec<Request>,
    /// All that was ever logged.
    pub(crate) logged: Vec<Request>,
    /// Whether the router writes to its log.
    pub(crate) logs: bool,
    /// Whether clients' requests are copied to the idle color.
    pub(crate) shadow: bool,
    /// What was logged of the copies.
    pub(crate) shadow_log: Vec<Request>,
    /// The hook that fails.
    pub(crate) failing_hook: Option<(HookPoint, Phase)>,
    /// Whether what runs the services never tells how they are.
    pub(crate) engine_hangs: bool,
    pub(crate) clients_per_second: f64,
    clients_until: Instant,
    pub(crate) script: Script,
    pub(crate) history: History,
}

impl State {
    /// Blue has the traffic, green is its standby.
    pub(crate) fn new(candidate: Server) -> Self {
        let long_ago = Instant::now();
        Self {
            active: Color::Blue,
            fit: Color::BOTH.to_vec(),
            blue: Server::good().started("v1"),
            green: Server::good().started("v0"),
            candidate,
            router_reaches: None,
            public_answers: None,
            log: Vec::new(),
            logged: Vec::new(),
            logs: true,
            shadow: false,
            shadow_log: Vec::new(),
            failing_hook: None,
            engine_hangs: false,
            clients_per_second: 50.0,
            clients_until: long_ago,
            script: Script::default(),
            history: History::default(),
        }
    }

    pub(crate) fn server(&mut self, color: Color) -> &mut Server {
        match color {
            Color::Blue => &mut self.blue,
            Color::Green => &mut self.green,
        }
    }

    pub(crate) fn record(&mut self, happened: Happened) {
        let moment = Moment {
            happened,
            active: self.active,
            fit: self.fit.clone(),
        };
        self.history.0.push(moment);
    }

    pub(crate) fn give_traffic_to(&mut self, color: Color) {
        if self.active != color {
            self.active = color;
            self.server(color).active_since = Some(Instant::now());
        }
    }

    /// One prediction through the router, with the standby where it is fit, and a line in the log.
    fn request(&mut self, by_deployer: bool) -> Result<Prediction, PortError> {
        let wanted = self.active;
        let standby = Some(wanted.other()).filter(|color| self.fit.contains(color));
        let mut request = Request {
            at: Timestamp::now().as_millisecond() as f64 / 1e3,
            by_deployer,
            ..unanswered(wanted)
        };
        let mut answer = Err(PortError::Unreachable("nobody answered".to_owned()));
        for color in std::iter::once(wanted).chain(standby) {
            answer = self.server(color).predict(true);
            request.status = if answer.is_ok() { 200 } else { 500 };
            request.answered = Some(color);
            request.attempts.push(Some(request.status));
            if let Ok(answer) = &answer {
                request.label.clone_from(&answer.label);
                request.took = Some(answer.took);
                request.waited = answer.took;
                break;
            }
        }
        if self.logs {
            self.log.push(request.clone());
            self.logged.push(request);
        }
        if self.shadow {
            self.copy_to_the_idle_color();
        }
        answer
    }

    fn copy_to_the_idle_color(&mut self) {
        let idle = self.active.other();
        let answer = self.server(idle).predict(true);
        let status = if answer.is_ok() { 200 } else { 500 };
        self.shadow_log.push(Request {
            answered: Some(idle),
            status,
            attempts: vec![Some(status)],
            label: answer.as_ref().ok().and_then(|answer| answer.label.clone()),
            took: answer.ok().map(|answer| answer.took),
            ..unanswered(idle)
        });
    }

    /// The requests that clients sent since the last time.
    fn catch_up_with_clients(&mut self) {
        let elapsed = self.clients_until.elapsed().as_secs_f64();
        self.clients_until = Instant::now();
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
                let color = self.public_answers.unwrap_or(self.active);
                let standby = color.other();
                match self.server(color).health() {
                    Err(_) if self.fit.contains(&standby) => self.server(standby).health(),
                    answer => answer,
                }
            }
        }
    }
}

/// A request that nobody has answered.
pub(crate) fn unanswered(wanted: Color) -> Request {
    Request {
        at: 0.0,
        by_deployer: false,
        wanted,
        answered: None,
        status: 502,
        attempts: Vec::new(),
        took: None,
        waited: Duration::ZERO,
        label: None,
    }
}

/// A request that the router gave to the old release without trying the candidate.
pub(crate) fn passed_over_at(seconds: f64) -> Request {
    Request {
        at: seconds,
        answered: Some(OLD),
        status: 200,
        attempts: vec![Some(200)],
        ..unanswered(CANDIDATE)
    }
}

/// The state, shared by all ports.
#[derive(Clone)]
pub(crate) struct Scene(Arc<Mutex<State>>);

impl Scene {
    pub(crate) fn new(state: State) -> Self {
        Self(Arc::new(Mutex::new(state)))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no fake panics")
    }

    /// The ports.
    pub(crate) fn ports(&self, readable_log: bool) -> Ports {
        let traffic: Box<dyn RequestLog> = Box::new(self.clone());
        Ports {
            router: Box::new(self.clone()),
            request_log: readable_log.then_some(traffic),
            shadow_log: Some(Box::new(ShadowLog(self.clone()))),
            fleet: Box::new(self.clone()),
            probe: Box::new(self.clone()),
            hooks: Box::new(self.clone()),
        }
    }

    /// Uses a port, as far as the script lets it.
    fn attempt<T>(
        &self,
        call: &Call,
        effect: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let state = &mut *self.lock();
        let number = state.script.count();
        let failure = || Err(PortError::Other(format!("{call:?} failed")));
        let result = match state.script.fault(number, call) {
            Some(Fault::Before) => failure(),
            Some(Fault::After) => effect(state).and_then(|_| failure()),
            None => effect(state),
        };
        state.record(Happened::Called(call.clone(), result.is_ok()));
        if let Some(deed) = state.script.deed_after(call) {
            deed(state);
            state.record(Happened::Told);
        }
        result
    }

    /// Uses a port that can be waited for; a deployer that was killed waits forever.
    async fn call<T>(
        &self,
        call: Call,
        effect: impl FnOnce(&mut State) -> Result<T, PortError>,
    ) -> Result<T, PortError> {
        let killed = self.lock().script.killed_at_the_next_call();
        if killed == Some(Fault::Before) {
            std::future::pending::<()>().await;
        }
        let result = self.attempt(&call, effect);
        if killed == Some(Fault::After) || self.lock().script.dead {
            std::future::pending::<()>().await;
        }
        result
    }
}

#[async_trait]
impl Router for Scene {
    async fn check_flags(&self) -> Result<(), PortError> {
        Ok(())
    }

    async fn active(&self) -> Result<Color, PortError> {
        self.call(Call::Active, |state| Ok(state.active)).await
    }

    async fn switch_to(&self, color: Color) -> Result<Color, PortError> {
        self.call(Call::PointAt(color), |state| {
            state.catch_up_with_clients();
            let displaced = state.active;
            state.give_traffic_to(color);
            Ok(displaced)
        })
        .await
    }

    fn active_by_flag(&self) -> Color {
        self.lock().active
    }

    fn is_fit(&self, color: Color) -> bool {
        self.lock().fit.contains(&color)
    }

    fn set_fit(&self, color: Color, fit: bool) -> Result<(), PortError> {
        let set = |state: &mut State| {
            state.fit.retain(|other| *other != color);
            if fit {
                state.fit.push(color);
            }
            Ok(())
        };
        self.attempt(&Call::SetFit(color, fit), set)
    }

    fn set_shadow(&self, on: bool) -> Result<(), PortError> {
        self.attempt(&Call::SetShadow(on), |state| {
            state.catch_up_with_clients();
            state.shadow = on;
            Ok(())
        })
    }

    fn limits(&self) -> Result<Option<RouterLimits>, PortError> {
        let read = Duration::from_mins(2);
        Ok(Some(RouterLimits {
            read,
            longest_read: read,
            next_upstream: None,
            upstream_idle: None,
        }))
    }
}

/// What was logged of copies.
struct ShadowLog(Scene);

impl RequestLog for ShadowLog {
    fn new_requests(&self) -> Result<Vec<Request>, PortError> {
        Ok(std::mem::take(&mut self.0.lock().shadow_log))
    }

    fn recent_requests(&self) -> Result<Vec<Request>, PortError> {
        self.new_requests()
    }
}

impl RequestLog for Scene {
    fn new_requests(&self) -> Result<Vec<Request>, PortError> {
        let read = |state: &mut State| {
            state.catch_up_with_clients();
            Ok(std::mem::take(&mut state.log))
        };
        self.attempt(&Call::NewRequests, read)
    }

    fn recent_requests(&self) -> Result<Vec<Request>, PortError> {
        Ok(self.lock().logged.clone())
    }
}

#[async_trait]
impl Fleet for Scene {
    async fn start_router(&self) -> Result<(), PortError> {
        self.call(Call::StartRouter, |_| Ok(())).await
    }

    async fn start(&self, color: Color, version: &str) -> Result<(), PortError> {
        self.call(Call::Start(color, version.to_owned()), |state| {
            if state.candidate.trouble == Trouble::CannotStart {
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
                (server.trouble, server.later) = (Trouble::Exited, None);
            }
            Ok(())
        })
        .await
    }

    async fn inspect(&self, service: Service) -> Result<(Doing, Option<String>), PortError> {
        if self.lock().engine_hangs {
            std::future::pending::<()>().await;
        }
        self.call(Call::Inspect(service), |state| {
            let Service::Server(color) = service else {
                return Ok((Doing::Running, None));
            };
            let server = state.server(color);
            let doing = match server.trouble() {
                Trouble::Exited => Doing::Stopped("exit code 3".to_owned()),
                _ => Doing::Running,
            };
            Ok((doing, Some(server.version.clone())))
        })
        .await
    }

    async fn prune(&self, _keep: usize) -> Result<(), PortError> {
        Ok(())
    }

    async fn diagnose(&self) -> Vec<Finding> {
        Vec::new()
    }

    async fn logs(&self, service: Service, _lines: usize) -> Vec<String> {
        let last_words = vec!["these are its last log lines".to_owned()];
        self.call(Call::Logs(service), |_| Ok(last_words))
            .await
            .unwrap_or_default()
    }
}

#[async_trait]
impl Probe for Scene {
    async fn health(&self, target: Target) -> Result<Health, PortError> {
        self.call(Call::Health(target), |state| state.health(target))
            .await
    }

    async fn predict(&self, target: Target, _: &Example) -> Result<Prediction, PortError> {
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
        self.call(Call::LoadResult(target), |state| {
            let Target::Server(color) = target else {
                panic!("load is made on a server alone, not on {target:?}");
            };
            Ok(state.server(color).load(plan))
        })
        .await
    }
}

#[async_trait]
impl Hooks for Scene {
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
