//! The agent's side of a fenced change: pure.
//!
//! An agent never goes back to an older generation. It opens only after it read the truth itself, and had registered before
//! it asked. Five rules make a fenced change safe; the tests show that each is needed:
//!
//! 1. **The fence.** A router that promised is open only while an answer to a question of its own is younger than
//!    [`RouterTiming::fence`], counted from when it *asked*. The promise counts as an answer once: a repeated or late
//!    [`Prepare`] never extends the fence. A router that did not promise needs no fence, because the deployer does not commit
//!    without its promise.
//! 2. **Closed start.** The deployer waits only for routers that promised to *it*. So an agent whose first read finds a
//!    prepared change, or that promises before its first read, stays closed until that change is decided. Likewise it stays
//!    closed until its nginx obeys what it read: flags that a deployer pushed before may be older.
//! 3. **A report that says closed is binding.** The deployer counts a closed router as settled. So such a report voids the
//!    questions asked before it: their answers, which may be on their way, do not open the router again.
//! 4. **The fence ends when nginx confirmed the decision**, not when the agent heard of it: nginx obeys the old flags until
//!    then. Likewise a router closes if its nginx has not confirmed a newer truth within the fence's time.
//! 5. **A router promises only in the generation before the change.** Otherwise it could miss an earlier change, and serve
//!    another color than the others after the change was refused.

use std::{collections::VecDeque, time::Duration};

use crate::{
    cluster::{
        message::{Prepare, Release, RouterReport, Undecided},
        truth::{RouterFlags, Truth},
    },
    color::Color,
};

mod learn;
mod refusal;

pub use self::refusal::Refusal;

/// The times that every router and deployer must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RouterTiming {
    /// How long a promise or an answer keeps a router open. T in the documentation.
    pub fence: Duration,
    /// After this time without a word from a deployer an agent aborts the change that it finds prepared.
    pub abandoned_after: Duration,
}

/// Names a question that this agent asked. Numbers grow with each question.
pub type QuestionNumber = u64;

/// What the agent found at its own nginx.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct NginxState {
    /// The color that nginx names as active; `None` if it does not answer.
    pub active: Option<Color>,
    /// The requests that nginx works on.
    pub in_flight: Option<u64>,
    /// Whether nginx reaches the color of [`Prepare::must_reach`]; `true` if the message names none.
    pub reaches: bool,
}

/// What an agent knows, and what follows from it.
///
/// `now` is the time since boot (`CLOCK_BOOTTIME`), which also passes while the machine is suspended. A new agent is closed.
/// The caller removes the flag `open` before it starts nginx, and keeps it as [`is_open`](Self::is_open) says. A process that
/// was frozen between asking `is_open` and creating the flag must ask again after it created the flag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouterState {
    timing: RouterTiming,
    questions: VecDeque<(QuestionNumber, Duration)>,
    next_question: QuestionNumber,
    /// Answers to questions before this one do not open the router.
    void_before: QuestionNumber,
    /// The first question that was asked after the router had registered.
    registered: Option<QuestionNumber>,
    stage: Stage,
    known: Option<Truth>,
    /// What nginx confirmed last.
    obeyed: Option<(u64, RouterFlags)>,
    /// Since nginx does not obey the newest known truth: when the router closes unless nginx confirms.
    behind_until: Option<Duration>,
    pending: Option<Pending>,
    /// The newest generation that a deployer gave up.
    released: u64,
    terminating: bool,
}

/// How far an agent came since it started. The router is closed before `InService`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Stage {
    Starting,
    /// It read the truth with a question asked after it had registered.
    HasRead,
    /// nginx obeyed a truth that the agent had read itself.
    InService,
}

/// A change that is not decided as far as the agent knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Pending {
    generation: u64,
    /// When the newest answered question was asked; `None` without a promise.
    fence: Option<Duration>,
    /// Closed until the change is decided.
    closed: bool,
    /// When the agent first knew of the change, or last heard from its deployer.
    heard_of: Duration,
}

impl RouterState {
    /// Creates the state of an agent that just started: closed, and knowing nothing.
    #[must_use]
    pub fn new(timing: RouterTiming) -> Self {
        Self {
            timing,
            questions: VecDeque::new(),
            next_question: 1,
            void_before: 0,
            registered: None,
            stage: Stage::Starting,
            known: None,
            obeyed: None,
            behind_until: None,
            pending: None,
            released: 0,
            terminating: false,
        }
    }

    /// Notes that the store confirmed the router's registration. Only reads that begin later open the router.
    pub fn registered(&mut self) {
        self.registered.get_or_insert(self.next_question);
    }

    /// Notes that the agent is about to stop: the router stays closed. It must not unregister while it is open.
    pub fn terminate(&mut self) {
        self.terminating = true;
    }

    /// Begins a read of the store. Call it before the request is sent.
    #[must_use]
    pub fn ask(&mut self, now: Duration) -> QuestionNumber {
        let oldest = now.saturating_sub(self.timing.fence);
        while self
            .questions
            .front()
            .is_some_and(|(_, asked)| *asked < oldest)
        {
            self.questions.pop_front();
        }
        let number = self.next_question;
        self.next_question += 1;
        self.questions.push_back((number, now));
        number
    }

    /// Takes the store's answer to the read that [`ask`](Self::ask) began. A failed read needs no call. An answer that is
    /// older than what the agent knows is ignored.
    pub fn read_answered(&mut self, question: QuestionNumber, truth: &Truth, now: Duration) {
        if self.registered.is_none_or(|first| question < first) || self.knows_newer(truth) {
            return;
        }
        let first_read = !self.has_read();
        self.stage = self.stage.max(Stage::HasRead);
        self.learn(truth, now);
        if first_read
            && truth.prepared.is_some()
            && let Some(pending) = &mut self.pending
        {
            pending.closed = true;
        }
        self.renew(truth.generation + 1, question);
        self.enter_service();
    }

    /// Takes [`Prepare`]. On success the router has promised: the caller arms the fence process with
    /// [`closes_at`](Self::closes_at), and then answers. `nginx` is what the agent found after the message arrived.
    pub fn prepare(
        &mut self,
        message: &Prepare,
        nginx: NginxState,
        now: Duration,
    ) -> Result<(), Refusal> {
        let generation = message.generation;
        self.check_promise(message, nginx)?;
        let has_read = self.has_read();
        let pending = self.pending_for(generation, now);
        pending.heard_of = now;
        pending.closed |= !has_read;
        pending.fence.get_or_insert(now);
        Ok(())
    }

    fn check_promise(&self, message: &Prepare, nginx: NginxState) -> Result<(), Refusal> {
        let generation = message.generation;
        if self
            .known
            .as_ref()
            .is_some_and(|truth| truth.generation >= generation)
        {
            return Err(Refusal::Decided { generation });
        }
        if self.released >= generation {
            return Err(Refusal::Released { generation });
        }
        let newer_pending = self
            .pending
            .is_some_and(|pending| pending.generation > generation);
        let own = self.obeyed.map(|(own, _)| own);
        if newer_pending || (self.has_read() && own != Some(generation - 1)) {
            let needed = generation - 1;
            return Err(Refusal::Behind { own, needed });
        }
        if message.fence < self.timing.fence {
            return Err(Refusal::LongerFence {
                own: self.timing.fence,
                deployer: message.fence,
            });
        }
        if self.terminating {
            return Ok(());
        }
        let active = nginx.active.ok_or(Refusal::NginxSilent)?;
        if let Some((_, flags)) = self.obeyed
            && flags.active != active
        {
            return Err(Refusal::NginxDisagrees {
                nginx: active,
                flags: flags.active,
            });
        }
        match message.must_reach {
            Some(color) if !nginx.reaches => Err(Refusal::Unreached(color)),
            _ => Ok(()),
        }
    }

    /// Takes [`Undecided`], the deployer's answer to a question in a report.
    pub fn undecided(&mut self, message: Undecided, now: Duration) {
        self.renew(message.generation, message.question);
        if let Some(pending) = &mut self.pending
            && pending.generation == message.generation
        {
            pending.heard_of = now;
        }
    }

    /// Takes [`Release`]: the deployer gave the change up, so silence no longer closes the router. A router that started
    /// during the change stays closed until it is decided.
    pub fn release(&mut self, message: Release) {
        self.released = self.released.max(message.generation);
    }

    /// Takes a truth that a deployer pushed. It renews no fence, and opens no router that has not read the truth itself.
    pub fn apply(&mut self, truth: &Truth, now: Duration) -> Result<(), Refusal> {
        if let Some(known) = &self.known
            && known.generation > truth.generation
        {
            return Err(Refusal::Older {
                message: truth.generation,
                known: known.generation,
            });
        }
        self.learn(truth, now);
        Ok(())
    }

    /// Returns the generation and the flags that the caller must write and have confirmed by nginx.
    #[must_use]
    pub fn to_write(&self) -> Option<(u64, RouterFlags)> {
        let known = self.known.as_ref()?;
        let obeyed = self.obeyed.map(|(generation, _)| generation);
        (obeyed != Some(known.generation)).then_some((known.generation, known.flags))
    }

    /// Returns the generation and the flags that nginx confirmed last.
    #[must_use]
    pub fn obeyed(&self) -> Option<(u64, RouterFlags)> {
        self.obeyed
    }

    /// Notes that nginx obeys the flags of `generation`. Ignored if the agent learned of a newer one meanwhile.
    pub fn confirmed(&mut self, generation: u64) {
        if let Some(known) = &self.known
            && known.generation == generation
        {
            self.obeyed = Some((generation, known.flags));
            self.behind_until = None;
            self.enter_service();
        }
    }

    fn enter_service(&mut self) {
        if self.has_read() && self.obeyed.is_some() && self.to_write().is_none() {
            self.stage = Stage::InService;
        }
    }

    fn has_read(&self) -> bool {
        self.stage >= Stage::HasRead
    }

    /// Returns whether the flag `open` must exist.
    #[must_use]
    pub fn is_open(&self, now: Duration) -> bool {
        self.closes_at().is_none_or(|limit| now < limit)
    }

    /// Returns when the router closes unless it learns more; `None` while no silence closes it. A time that has passed
    /// means that it is closed.
    #[must_use]
    pub fn closes_at(&self) -> Option<Duration> {
        if self.stage < Stage::InService || self.terminating {
            return Some(Duration::ZERO);
        }
        let fence = self.pending.and_then(|pending| self.fence_end(pending));
        match (fence, self.behind_until) {
            (Some(fence), Some(behind)) => Some(fence.min(behind)),
            (fence, behind) => fence.or(behind),
        }
    }

    /// Returns the truth that aborts the change prepared in `read` if its deployer is silent for
    /// [`RouterTiming::abandoned_after`]. The caller replaces the version that it read with `read`.
    #[must_use]
    pub fn abort_of(&self, read: &Truth, now: Duration) -> Option<Truth> {
        let pending = self.pending?;
        let prepared = read.prepared.as_ref()?;
        let silent = now.saturating_sub(pending.heard_of) >= self.timing.abandoned_after;
        (prepared.generation == pending.generation && silent).then(|| read.decide(read.flags))
    }

    /// Makes the report that answers a message, and issues its question. A report that says closed voids all questions
    /// before it.
    pub fn report(
        &mut self,
        name: &str,
        incarnation: u64,
        nginx: NginxState,
        refusal: Option<Refusal>,
        now: Duration,
    ) -> RouterReport {
        let open = self.is_open(now);
        let question = self.ask(now);
        if !open {
            self.void_before = question;
        }
        RouterReport {
            name: name.to_owned(),
            incarnation,
            generation: self.obeyed.map(|(generation, _)| generation),
            promised: self.promised(),
            open,
            flags: self.obeyed.map(|(_, flags)| flags),
            active: nginx.active,
            in_flight: nginx.in_flight,
            question,
            refusal: refusal.map(|refusal| refusal.to_string()),
        }
    }

    /// Returns the undecided generation for which the router promised.
    #[must_use]
    pub fn promised(&self) -> Option<u64> {
        let pending = self.pending?;
        (pending.fence.is_some() || pending.closed).then_some(pending.generation)
    }
}
