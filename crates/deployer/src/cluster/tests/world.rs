//! A model of a store, routers, deployers, and a network that delays, loses, duplicates, and reorders messages.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    cluster::{
        RouterFlags, Truth,
        change::{Action, ChangeLimits, Decide, Event, FencedChange, FlagEdit, Message, Outcome},
        message::RouterReport,
        router_state::{NginxState, QuestionNumber, Refusal, RouterState, RouterTiming},
    },
    color::Color,
    ports::{PortError, RouterEntry, Version, WriteError},
};

pub(super) const TIMING: RouterTiming = RouterTiming {
    fence: Duration::from_millis(300),
    abandoned_after: Duration::from_secs(1),
};

pub(super) const LIMITS: ChangeLimits = ChangeLimits {
    fence: TIMING.fence,
    promises: Duration::from_millis(400),
    store: Duration::from_millis(600),
};

#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a trouble that comes and goes by itself"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Agent {
    pub(super) state: RouterState,
    pub(super) incarnation: u64,
    pub(super) clock: Duration,
    /// Percent of real time.
    pub(super) rate: u32,
    pub(super) alive: bool,
    pub(super) frozen: bool,
    /// Its flags cannot be written.
    pub(super) stuck: bool,
    pub(super) cut_from_store: bool,
    pub(super) cut_from_deployers: bool,
    /// Of a deployer's messages only the truth does not arrive.
    pub(super) loses_truth: bool,
    registered: bool,
    /// The generation and flags that nginx obeys.
    pub(super) nginx: (u64, RouterFlags),
    /// Whether it was open since it started.
    opened: bool,
    /// Whether the flag `open` exists.
    pub(super) open: bool,
    /// When the fence process removes `open`.
    armed: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Machine {
    Fenced(FencedChange),
    Decide(Decide),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Deployer {
    pub(super) machine: Machine,
    clock: Duration,
    rate: u32,
    pub(super) alive: bool,
    pub(super) frozen: bool,
    operation: u64,
    /// The generation and flags of a fenced change's commit.
    pub(super) commit: Option<(u64, RouterFlags)>,
}

/// What a store answers to a deployer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Reply {
    Read(Truth, u64),
    Replaced(Result<u64, ()>),
    Listed(Vec<String>),
}

/// A message under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Net {
    Register {
        agent: usize,
        incarnation: u64,
    },
    Registered {
        agent: usize,
        incarnation: u64,
    },
    Ask {
        agent: usize,
        incarnation: u64,
        question: QuestionNumber,
    },
    Answer {
        agent: usize,
        incarnation: u64,
        question: QuestionNumber,
        truth: Truth,
        version: u64,
    },
    Abort {
        agent: usize,
        truth: Truth,
        version: u64,
    },
    Operation {
        deployer: usize,
        operation: u64,
        action: Action,
    },
    OperationReply {
        deployer: usize,
        operation: u64,
        reply: Reply,
    },
    ToAgent {
        deployer: usize,
        agent: usize,
        number: u64,
        message: Message,
    },
    ToDeployer {
        deployer: usize,
        agent: usize,
        number: u64,
        report: Box<RouterReport>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) truth: Truth,
    version: u64,
    entries: BTreeMap<String, u64>,
    pub(super) store_up: bool,
    pub(super) agents: Vec<Agent>,
    pub(super) deployers: Vec<Deployer>,
    pub(super) net: Vec<Net>,
    /// The newest generation of a fenced change whose command returned with success.
    pub(super) done: u64,
}

fn lost() -> PortError {
    PortError::TimedOut("no answer".to_owned())
}

impl World {
    /// Creates a world whose routers, one for each clock rate in percent, have not started.
    pub(super) fn new(rates: &[u32]) -> Self {
        let agent = |rate: &u32| Agent {
            state: RouterState::new(TIMING),
            incarnation: 0,
            clock: Duration::from_millis(u64::from(*rate) * 7),
            rate: *rate,
            alive: false,
            frozen: false,
            stuck: false,
            cut_from_store: false,
            cut_from_deployers: false,
            loses_truth: false,
            registered: false,
            nginx: (0, RouterFlags::default()),
            opened: false,
            open: false,
            armed: None,
        };
        Self {
            truth: Truth::default(),
            version: 1,
            entries: BTreeMap::new(),
            store_up: true,
            agents: rates.iter().map(agent).collect(),
            deployers: Vec::new(),
            net: Vec::new(),
            done: 0,
        }
    }

    /// Creates a world whose routers are open.
    pub(super) fn opened(rates: &[u32]) -> Self {
        let mut world = Self::new(rates);
        for agent in 0..rates.len() {
            world.start(agent);
        }
        world.deliver_all();
        world
    }

    /// Starts or restarts an agent: `open` is removed first.
    pub(super) fn start(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        agent.state = RouterState::new(TIMING);
        agent.incarnation += 1;
        (agent.alive, agent.frozen, agent.registered) = (true, false, false);
        (agent.open, agent.opened, agent.armed) = (false, false, None);
        let incarnation = agent.incarnation;
        self.net.push(Net::Register {
            agent: index,
            incarnation,
        });
    }

    /// Stops an agent in order: it closes, and then unregisters.
    pub(super) fn stop(&mut self, index: usize) {
        let agent = &mut self.agents[index];
        agent.state.terminate();
        (agent.alive, agent.open) = (false, false);
        self.entries.remove(&name(index));
    }

    pub(super) fn begin_fenced(&mut self, to: Color, rate: u32) {
        let edit = FlagEdit {
            active: Some(to),
            ..FlagEdit::default()
        };
        let by = format!("deployer {}", self.deployers.len());
        let (machine, actions) = FencedChange::begin(edit, &by, LIMITS, Duration::ZERO);
        self.begin(Machine::Fenced(machine), rate, actions);
    }

    pub(super) fn begin_roll_back(&mut self, to: Color, rate: u32) {
        let edit = FlagEdit {
            active: Some(to),
            ..FlagEdit::default()
        };
        let (machine, actions) = Decide::begin(edit, true, LIMITS, Duration::ZERO);
        self.begin(Machine::Decide(machine), rate, actions);
    }

    fn begin(&mut self, machine: Machine, rate: u32, actions: Vec<Action>) {
        let index = self.deployers.len();
        self.deployers.push(Deployer {
            machine,
            clock: Duration::ZERO,
            rate,
            alive: true,
            frozen: false,
            operation: 0,
            commit: None,
        });
        self.act(index, actions);
    }

    fn act(&mut self, index: usize, actions: Vec<Action>) {
        for action in actions {
            if let Action::Send {
                router,
                number,
                message,
            } = action
            {
                let agent = router[1..].parse().unwrap();
                self.net.push(Net::ToAgent {
                    deployer: index,
                    agent,
                    number,
                    message,
                });
                continue;
            }
            let deployer = &mut self.deployers[index];
            deployer.operation += 1;
            let operation = deployer.operation;
            self.net.push(Net::Operation {
                deployer: index,
                operation,
                action,
            });
        }
    }

    /// Hands an event to a deployer that still works.
    fn event(&mut self, index: usize, event: Event) {
        let deployer = &mut self.deployers[index];
        if !deployer.alive || deployer.ended() {
            return;
        }
        let now = deployer.clock;
        let actions = match &mut deployer.machine {
            Machine::Fenced(machine) => machine.handle(event, now),
            Machine::Decide(machine) => machine.handle(event, now),
        };
        if let Machine::Fenced(machine) = &deployer.machine
            && let Some(Outcome::Done { truth, .. }) = machine.outcome()
        {
            self.done = self.done.max(truth.generation);
        }
        self.act(index, actions);
    }

    /// Lets real time pass.
    pub(super) fn pass(&mut self, milliseconds: u32) {
        for index in 0..self.agents.len() {
            let agent = &mut self.agents[index];
            agent.clock += Duration::from_micros(u64::from(milliseconds * agent.rate) * 10);
            // The fence process also acts while its agent is frozen.
            if agent.armed.is_some_and(|limit| agent.clock >= limit) {
                agent.open = false;
            }
            if agent.alive && !agent.frozen {
                self.poll(index);
            }
        }
        for index in 0..self.deployers.len() {
            let deployer = &mut self.deployers[index];
            deployer.clock += Duration::from_micros(u64::from(milliseconds * deployer.rate) * 10);
            if !deployer.frozen {
                self.event(index, Event::Tick);
            }
        }
    }

    fn poll(&mut self, index: usize) {
        self.agents[index].copy();
        let agent = &mut self.agents[index];
        let incarnation = agent.incarnation;
        if agent.registered {
            let question = agent.state.ask(agent.clock);
            self.net.push(Net::Ask {
                agent: index,
                incarnation,
                question,
            });
        } else {
            self.net.push(Net::Register {
                agent: index,
                incarnation,
            });
        }
    }

    pub(super) fn deliver_all(&mut self) {
        for _ in 0..10_000 {
            if self.net.is_empty() {
                return;
            }
            self.deliver(0);
        }
        panic!("messages answer each other without end");
    }

    /// Loses a message. A deployer learns that its store did not answer.
    pub(super) fn lose(&mut self, index: usize) {
        let message = self.net.remove(index);
        self.time_out(&message);
    }

    /// The deployer gives the message up, which may still arrive.
    pub(super) fn time_out(&mut self, message: &Net) {
        let (deployer, operation) = match message {
            Net::Operation {
                deployer,
                operation,
                ..
            }
            | Net::OperationReply {
                deployer,
                operation,
                ..
            } => (*deployer, *operation),
            Net::ToAgent {
                deployer, agent, ..
            } => {
                let event = Event::Unreached {
                    router: name(*agent),
                    error: lost(),
                };
                return self.event(*deployer, event);
            }
            _ => return,
        };
        let event = match message {
            Net::Operation {
                action: Action::Read,
                ..
            }
            | Net::OperationReply {
                reply: Reply::Read(..),
                ..
            } => Event::Read(Err(lost())),
            Net::Operation {
                action: Action::List,
                ..
            }
            | Net::OperationReply {
                reply: Reply::Listed(_),
                ..
            } => Event::Listed(Err(lost())),
            _ => Event::Replaced(Err(WriteError::Unknown(lost()))),
        };
        self.answer(deployer, operation, event);
    }

    fn answer(&mut self, deployer: usize, operation: u64, event: Event) {
        if self.deployers[deployer].operation == operation {
            // A later answer to the same operation is not heard.
            self.deployers[deployer].operation += 1;
            self.event(deployer, event);
        }
    }

    fn is_cut(&self, message: &Net) -> bool {
        match message {
            Net::Register { agent, .. }
            | Net::Registered { agent, .. }
            | Net::Ask { agent, .. }
            | Net::Answer { agent, .. }
            | Net::Abort { agent, .. } => self.agents[*agent].cut_from_store || !self.store_up,
            Net::Operation { .. } | Net::OperationReply { .. } => !self.store_up,
            Net::ToAgent {
                agent,
                message: Message::Apply(_),
                ..
            } => self.agents[*agent].loses_truth || self.agents[*agent].cut_from_deployers,
            Net::ToAgent { agent, .. } | Net::ToDeployer { agent, .. } => {
                self.agents[*agent].cut_from_deployers
            }
        }
    }

    /// Returns whether the receiver of a message is not frozen.
    pub(super) fn is_deliverable(&self, index: usize) -> bool {
        let frozen = match &self.net[index] {
            Net::Registered { agent, .. }
            | Net::Answer { agent, .. }
            | Net::ToAgent { agent, .. } => self.agents[*agent].frozen,
            Net::OperationReply { deployer, .. } | Net::ToDeployer { deployer, .. } => {
                self.deployers[*deployer].frozen
            }
            _ => false,
        };
        !frozen
    }

    /// Delivers a message, if its receiver is not frozen.
    pub(super) fn deliver(&mut self, index: usize) {
        if self.is_cut(&self.net[index]) {
            return self.lose(index);
        }
        if !self.is_deliverable(index) {
            return;
        }
        match self.net.remove(index) {
            Net::Register { agent, incarnation } => {
                if self.agents[agent].alive && self.agents[agent].incarnation == incarnation {
                    self.entries.insert(name(agent), incarnation);
                }
                self.net.push(Net::Registered { agent, incarnation });
            }
            Net::Ask {
                agent,
                incarnation,
                question,
            } => {
                let (truth, version) = (self.truth.clone(), self.version);
                self.net.push(Net::Answer {
                    agent,
                    incarnation,
                    question,
                    truth,
                    version,
                });
            }
            Net::Abort { truth, version, .. } => {
                let _ = self.replace(version, truth);
            }
            Net::Operation {
                deployer,
                operation,
                action,
            } => self.operate(deployer, operation, action),
            Net::OperationReply {
                deployer,
                operation,
                reply,
            } => self.answer(deployer, operation, reply.event()),
            Net::ToDeployer {
                deployer,
                agent,
                number,
                report,
            } => {
                let (router, report) = (name(agent), *report);
                self.event(
                    deployer,
                    Event::Reported {
                        router,
                        number,
                        report,
                    },
                );
            }
            Net::Registered { agent, incarnation } => self.registered(agent, incarnation),
            Net::Answer {
                agent,
                incarnation,
                question,
                truth,
                version,
            } => {
                self.read(agent, incarnation, question, &truth, version);
            }
            Net::ToAgent {
                deployer,
                agent,
                number,
                message,
            } => self.deliver_to_agent(deployer, agent, number, &message),
        }
    }

    fn replace(&mut self, version: u64, truth: Truth) -> Result<u64, ()> {
        if self.version != version {
            return Err(());
        }
        self.version += 1;
        self.truth = truth;
        Ok(self.version)
    }

    fn operate(&mut self, deployer: usize, operation: u64, action: Action) {
        let reply = match action {
            Action::Read => Reply::Read(self.truth.clone(), self.version),
            Action::List => Reply::Listed(self.entries.keys().cloned().collect()),
            Action::Replace(version, truth) => {
                let flags = self.truth.prepared.as_ref().map(|prepared| prepared.flags);
                let commits = truth.prepared.is_none()
                    && flags == Some(truth.flags)
                    && truth.flags != self.truth.flags;
                let commit = (truth.generation, truth.flags);
                let result = self.replace(version.0.parse().unwrap(), truth);
                if commits
                    && result.is_ok()
                    && matches!(self.deployers[deployer].machine, Machine::Fenced(_))
                {
                    self.deployers[deployer].commit = Some(commit);
                }
                Reply::Replaced(result)
            }
            Action::Send { .. } => unreachable!("messages to routers do not go to the store"),
        };
        self.net.push(Net::OperationReply {
            deployer,
            operation,
            reply,
        });
    }

    fn registered(&mut self, index: usize, incarnation: u64) {
        let agent = &mut self.agents[index];
        if agent.alive && agent.incarnation == incarnation && !agent.registered {
            agent.registered = true;
            agent.state.registered();
            let question = agent.state.ask(agent.clock);
            self.net.push(Net::Ask {
                agent: index,
                incarnation,
                question,
            });
        }
    }

    fn read(
        &mut self,
        index: usize,
        incarnation: u64,
        question: QuestionNumber,
        truth: &Truth,
        version: u64,
    ) {
        let agent = &mut self.agents[index];
        if !agent.alive || agent.incarnation != incarnation {
            return;
        }
        agent.state.read_answered(question, truth, agent.clock);
        if let Some(truth) = agent.state.abort_of(truth, agent.clock) {
            self.net.push(Net::Abort {
                agent: index,
                truth,
                version,
            });
        }
        self.agents[index].copy();
    }

    fn deliver_to_agent(&mut self, deployer: usize, index: usize, number: u64, message: &Message) {
        let agent = &mut self.agents[index];
        if !agent.alive {
            return;
        }
        let refusal: Result<(), Refusal> = match message {
            Message::Prepare(message) => {
                let nginx = agent.nginx_state();
                agent.state.prepare(message, nginx, agent.clock)
            }
            Message::Undecided(message) => {
                agent.state.undecided(*message, agent.clock);
                Ok(())
            }
            Message::Release(message) => {
                agent.state.release(*message);
                Ok(())
            }
            Message::Apply(truth) => agent.state.apply(truth, agent.clock),
        };
        agent.copy();
        let (nginx, now) = (agent.nginx_state(), agent.clock);
        let report = agent
            .state
            .report(&name(index), agent.incarnation, nginx, refusal.err(), now);
        agent.copy();
        self.net.push(Net::ToDeployer {
            deployer,
            agent: index,
            number,
            report: Box::new(report),
        });
    }

    /// Returns what is wrong: after a fenced change returned, no open router serves what was before it; a refused change is
    /// never committed; and silence closes no router that did not promise.
    pub(super) fn check(&self) -> Result<(), String> {
        for (index, agent) in self.agents.iter().enumerate() {
            if agent.open && agent.nginx.0 < self.done {
                return Err(format!(
                    "r{index} serves generation {} after {} returned",
                    agent.nginx.0, self.done
                ));
            }
            if agent.open && !agent.alive {
                return Err(format!("r{index} serves without its agent"));
            }
            let excused = agent.state.promised().is_some() || agent.state.to_write().is_some();
            if agent.alive && !agent.frozen && agent.opened && !agent.open && !excused {
                return Err(format!("silence closed r{index}, which did not promise"));
            }
        }
        for deployer in &self.deployers {
            if let Machine::Fenced(machine) = &deployer.machine
                && let Some(Outcome::Refused { .. }) = machine.outcome()
                && deployer.commit.is_some()
            {
                return Err("a refused change is committed".to_owned());
            }
        }
        Ok(())
    }
}

impl Deployer {
    pub(super) fn ended(&self) -> bool {
        match &self.machine {
            Machine::Fenced(machine) => machine.outcome().is_some(),
            Machine::Decide(machine) => machine.outcome().is_some(),
        }
    }
}

impl Agent {
    fn nginx_state(&self) -> NginxState {
        NginxState {
            active: Some(self.nginx.1.active),
            in_flight: Some(0),
            reaches: true,
        }
    }

    /// Writes the flags and `open`, and arms the fence process.
    pub(super) fn copy(&mut self) {
        if let Some((generation, flags)) = self.state.to_write()
            && !self.stuck
        {
            self.nginx = (generation, flags);
            self.state.confirmed(generation);
        } else if self.state.to_write().is_none()
            && let Some((generation, flags)) = self.state.obeyed()
        {
            assert_eq!(flags, self.nginx.1, "the agent must know what nginx obeys");
            self.nginx.0 = generation;
        }
        self.open = self.state.is_open(self.clock);
        self.opened |= self.open;
        self.armed = self.state.closes_at();
    }
}

impl Reply {
    fn event(self) -> Event {
        match self {
            Self::Read(truth, version) => Event::Read(Ok((truth, Version(version.to_string())))),
            Self::Replaced(Ok(version)) => Event::Replaced(Ok(Version(version.to_string()))),
            Self::Replaced(Err(())) => Event::Replaced(Err(WriteError::Conflict)),
            Self::Listed(names) => {
                let entry = |name| RouterEntry {
                    name,
                    url: String::new(),
                    incarnation: 0,
                };
                Event::Listed(Ok(names.into_iter().map(entry).collect()))
            }
        }
    }
}

pub(super) fn name(agent: usize) -> String {
    format!("r{agent}")
}
