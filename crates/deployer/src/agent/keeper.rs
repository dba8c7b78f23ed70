//! Keeps one router: what its agent knows, its flags, and whether it is open.

use std::{
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use crate::{
    adapters::nginx::{control_port::ControlPort, flags::FlagDirectory},
    agent::{
        boot_time, fence::Fence, fence_process::Order, log::note, open_flag::OpenFlag,
        replaced_flags::write_flags,
    },
    cluster::{
        RouterFlags, Truth,
        message::{Prepare, Release, RouterReport, Undecided},
        router_state::{NginxState, Refusal, RouterState, RouterTiming},
    },
    color::Color,
    ports::PortError,
};

/// Keeps one router.
pub(super) struct Keeper {
    name: String,
    timing: RouterTiming,
    life: Mutex<Life>,
    flags: FlagDirectory,
    control: ControlPort,
    /// Held while the flags of a generation are written and confirmed.
    writing: tokio::sync::Mutex<()>,
    gate: tokio::sync::Mutex<Gate>,
    /// Wakes what waits for a change of the state.
    pub(super) changed: Notify,
}

/// What a restart of nginx ends.
pub(super) struct Life {
    pub(super) incarnation: u64,
    pub(super) state: RouterState,
}

/// The flag `open`, and the fence process that guards it.
struct Gate {
    flag: OpenFlag,
    fence: Fence,
}

impl Keeper {
    /// Creates the keeper of a router that is closed: removes the flag `open`.
    pub(super) fn new(
        name: &str,
        timing: RouterTiming,
        flags: FlagDirectory,
        control: ControlPort,
    ) -> io::Result<Self> {
        let flag = OpenFlag::in_directory(flags.path());
        flag.remove()?;
        let gate = Gate {
            flag,
            fence: Fence::new(flags.path()),
        };
        Ok(Self {
            name: name.to_owned(),
            timing,
            life: Mutex::new(Life {
                incarnation: incarnation_after(0),
                state: RouterState::new(timing),
            }),
            flags,
            control,
            writing: tokio::sync::Mutex::default(),
            gate: tokio::sync::Mutex::new(gate),
            changed: Notify::new(),
        })
    }

    /// Returns what the agent knows. Do not hold it across an `await`.
    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets everything, as a new start of the agent does: closes the router, which opens again only by reading the truth.
    pub(super) async fn start_anew(&self) -> u64 {
        let incarnation = {
            let mut life = self.life();
            life.incarnation = incarnation_after(life.incarnation);
            life.state = RouterState::new(self.timing);
            life.incarnation
        };
        self.keep_gate().await;
        self.changed.notify_one();
        incarnation
    }

    /// Closes the router for good.
    pub(super) async fn terminate(&self) {
        self.life().state.terminate();
        self.keep_gate().await;
    }

    /// Opens or closes the router as the state says. On return the flag `open` is as the state wanted it, and the fence
    /// process guards it until then.
    pub(super) async fn keep_gate(&self) {
        let mut gate = self.gate.lock().await;
        let closes_at = self.life().state.closes_at();
        let left = closes_at.map_or(Duration::MAX, |at| at.saturating_sub(boot_time::now()));
        let (order, patience) = match closes_at {
            Some(at) if !left.is_zero() => (Order::Arm(at), left),
            // What is closed needs no guard.
            Some(_) => {
                gate.close();
                (Order::Disarm, Duration::MAX)
            }
            None => (Order::Disarm, Duration::MAX),
        };
        if let Err(error) = gate.fence.give(order, patience).await {
            gate.close();
            note(format_args!(
                "closed the router, because its fence process failed: {error}"
            ));
            return;
        }
        // An answer may have renewed the fence meanwhile, which the order does not guard. The next call arms it.
        let is_guarded = || match order {
            Order::Arm(_) => true,
            Order::Disarm => self.life().state.closes_at().is_none(),
        };
        let is_open = || is_guarded() && self.life().state.is_open(boot_time::now());
        if is_open() {
            gate.open();
        } else if !is_guarded() {
            self.changed.notify_one();
        }
        // The agent may have been frozen since it asked.
        if !is_open() {
            gate.close();
        }
    }

    /// Keeps the flag `open` as the state says, until this is dropped.
    pub(super) async fn keep_gate_always(&self) {
        /// A wait does not count the time for which the machine is suspended.
        const LONGEST_WAIT: Duration = Duration::from_millis(250);

        loop {
            self.keep_gate().await;
            let closes_at = self.life().state.closes_at();
            let left = closes_at.map_or(LONGEST_WAIT, |at| at.saturating_sub(boot_time::now()));
            let wait = if left.is_zero() {
                LONGEST_WAIT
            } else {
                left.min(LONGEST_WAIT)
            };
            let _ = timeout(wait, self.changed.notified()).await;
        }
    }

    /// Writes the flags of the newest truth, and waits until nginx confirms them. Gives up after a while; the next poll
    /// tries again.
    pub(super) async fn obey(&self) -> Result<(), PortError> {
        const PAUSE: Duration = Duration::from_millis(10);
        const PATIENCE: Duration = Duration::from_secs(2);

        let _writing = self.writing.lock().await;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let to_write = self.life().state.to_write();
            let Some((generation, flags)) = to_write else {
                return Ok(());
            };
            write_flags(&self.flags, flags).await?;
            let problem = match self.control.active().await {
                Ok(active) if active == flags.active => {
                    self.life().state.confirmed(generation);
                    self.changed.notify_one();
                    note(format_args!(
                        "nginx obeys generation {generation}: {}",
                        in_words(flags)
                    ));
                    continue;
                }
                Ok(active) => PortError::Invalid(format!(
                    "nginx names {active} as active, and the flags say {}: is its prefix that of --nginx-prefix?",
                    flags.active
                )),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                let what = format!("nginx does not confirm generation {generation}");
                return Err(problem.context(&what));
            }
            sleep(PAUSE).await;
        }
    }

    /// Returns the answer to `GET /state`.
    pub(super) async fn report(&self) -> RouterReport {
        let nginx = self.ask_nginx(None).await;
        self.answer(nginx, None).await
    }

    /// Takes [`Prepare`]. The fence process guards the promise before this returns.
    pub(super) async fn prepare(&self, message: &Prepare) -> RouterReport {
        let nginx = self.ask_nginx(message.must_reach).await;
        let promised = {
            let now = boot_time::now();
            let mut life = self.life();
            life.state.prepare(message, nginx, now)
        };
        match &promised {
            Ok(()) => note(format_args!(
                "promised for generation {}",
                message.generation
            )),
            Err(refusal) => note(format_args!(
                "did not promise for generation {}: {refusal}",
                message.generation
            )),
        }
        self.changed.notify_one();
        self.keep_gate().await;
        self.answer(nginx, promised.err()).await
    }

    /// Takes [`Undecided`].
    pub(super) async fn undecided(&self, message: Undecided) -> RouterReport {
        self.life().state.undecided(message, boot_time::now());
        self.keep_gate().await;
        self.report().await
    }

    /// Takes [`Release`].
    pub(super) async fn release(&self, message: Release) -> RouterReport {
        self.life().state.release(message);
        self.keep_gate().await;
        self.report().await
    }

    /// Takes a truth that a deployer pushed. Returns when nginx confirmed its flags, or did not.
    pub(super) async fn apply(&self, truth: &Truth) -> RouterReport {
        let applied = self.life().state.apply(truth, boot_time::now());
        if applied.is_ok()
            && let Err(error) = self.obey().await
        {
            note(error);
        }
        self.changed.notify_one();
        self.keep_gate().await;
        let nginx = self.ask_nginx(None).await;
        self.answer(nginx, applied.err()).await
    }

    /// Makes a report. What says closed is closed, and what says promised is guarded by the fence process: the deployer
    /// takes a promise from any report.
    async fn answer(&self, nginx: NginxState, refusal: Option<Refusal>) -> RouterReport {
        let report = {
            let now = boot_time::now();
            let mut life = self.life();
            let incarnation = life.incarnation;
            life.state
                .report(&self.name, incarnation, nginx, refusal, now)
        };
        if !report.open || report.promised.is_some() {
            self.keep_gate().await;
        }
        report
    }

    async fn ask_nginx(&self, must_reach: Option<Color>) -> NginxState {
        let reaches = async {
            match must_reach {
                Some(color) => self.control.reaches(color).await,
                None => true,
            }
        };
        let (active, in_flight, reaches) =
            tokio::join!(self.control.active(), self.control.in_flight(), reaches);
        NginxState {
            active: active.ok(),
            in_flight: in_flight.ok(),
            reaches,
        }
    }
}

impl Gate {
    fn open(&self) {
        match self.flag.create() {
            Ok(true) => note("opened the router"),
            Ok(false) => {}
            Err(error) => note(format_args!("cannot open the router: {error}")),
        }
    }

    fn close(&self) {
        match self.flag.remove() {
            Ok(true) => note("closed the router"),
            Ok(false) => {}
            // Nothing is left but to take nginx away from under it.
            Err(error) => {
                note(format_args!(
                    "cannot close the router: {error}; ending nginx"
                ));
                std::process::exit(1);
            }
        }
    }
}

/// Returns the number of a new start: the time, so that it grows also after a restart of the machine.
fn incarnation_after(last: u64) -> u64 {
    let now = jiff::Timestamp::now().as_microsecond();
    u64::try_from(now).unwrap_or_default().max(last + 1)
}

fn in_words(flags: RouterFlags) -> String {
    let mut text = format!("{} is active", flags.active);
    for color in Color::BOTH {
        if flags.is_fit(color) {
            text.extend([", ", color.name(), " is fit"]);
        }
    }
    if flags.shadow {
        text.push_str(", copies are on");
    }
    text
}
