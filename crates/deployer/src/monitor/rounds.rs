//! The rounds of `deployer monitor`: check, alert, act.

use std::{pin::pin, time::Duration};

use tokio::{
    net::TcpListener,
    time::{Instant, MissedTickBehavior},
};

use crate::{
    adapters::{
        self,
        notify::{Kind, Notifier},
    },
    color::Color,
    config::Settings,
    deployment::phase::Phase,
    event::Reporter,
    examples::{Example, Examples},
    monitor::{
        color::{MonitoredColor, index},
        metrics::{self, Metrics},
        page::{
            self, PageServer, address,
            feed::{PageFeed, RoundResults},
        },
        page_actions::next_of,
        router_errors::RouterErrors,
        service::Monitor,
        standby::LastDeployment,
        state::MonitorState,
    },
    ports::{PortError, Ports, RouterStatus, Target},
    release::Health,
    state::journal_entries::{DeploymentEntry, JournalEntries},
};

/// Time between two checks of the size of the router's logs.
const BETWEEN_TRIMS: Duration = Duration::from_mins(1);

/// Where the monitor answers requests.
pub(crate) struct Listeners {
    /// For metrics; `None` for none.
    pub(crate) metrics: Option<TcpListener>,
    /// For the page; `None` for none.
    pub(crate) page: Option<TcpListener>,
}

/// Monitors both colors until `shutdown` resolves. Fails if metrics can no longer be served.
pub(crate) async fn run(
    settings: &Settings,
    ports: &Ports,
    reporter: &dyn Reporter,
    examples: &Examples,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let metrics = Metrics::default();
    let page = listeners.page.map(|page| PageServer::new(settings, page));
    let (page, inbox) = page.transpose()?.unzip();
    let notifier = Notifier::new(settings);
    notifier.forget_others();
    let mut state = MonitorState::read(&settings.state);
    // A monitor that was killed after queuing an alert and before saving its state.
    for alert in notifier.undelivered() {
        state.add(&alert);
    }
    let mut monitor = Monitor {
        settings,
        reporter,
        ports,
        example: examples.golden.first(),
        notifier: &notifier,
        router: settings.monitor.health_tracker(!state.router_down),
        router_errors: RouterErrors::resume(state.router_errors),
        colors: Color::BOTH.map(|color| MonitoredColor::new(settings, &state.colors[index(color)])),
        state,
        suspect: None,
        failover_failed: false,
        job: None,
        trimmed: None,
        comparison: None,
        compared: None,
        read_up_to: None,
        journal_unreadable: false,
        metrics: &metrics,
        page: page
            .as_ref()
            .map(|page| PageFeed::new(&page.live, settings)),
        inbox,
    };
    let receivers = match &notifier.names()[..] {
        [] => "no receiver of alerts is set".to_owned(),
        names => format!(
            "alerts and ends of deployments go to {}",
            names.join(" and ")
        ),
    };
    monitor.note(format!(
        "monitoring both colors every {}; {} failed checks in a row mean down; {receivers}",
        humantime::format_duration(settings.monitor.interval),
        settings.monitor.fall
    ));
    monitor.announce_page(page.as_ref());
    let ended = tokio::select! {
        () = monitor.run_until(shutdown) => Ok(()),
        error = metrics::serve(listeners.metrics, &metrics) => Err(error),
        () = page::serve(page.as_ref(), ports) => Ok(()),
        failed = notifier.send_always() => Ok(failed?),
    };
    address::forget(&settings.state);
    ended
}

/// The results of one round of checks.
struct CheckResults {
    active: Result<Color, PortError>,
    /// Each of several routers; empty if there is one.
    routers: Vec<RouterStatus>,
    colors: [Result<Health, String>; 2],
}

impl CheckResults {
    async fn get(ports: &Ports, example: Option<&Example>) -> Self {
        let (active, routers, blue, green) = tokio::join!(
            ports.router.active(),
            ports.router.routers(),
            check(ports, Color::Blue, example),
            check(ports, Color::Green, example),
        );
        Self {
            active,
            // If they are not known, the active color is not known either.
            routers: routers.unwrap_or_default(),
            colors: [blue, green],
        }
    }

    /// Why the router does not answer, or which of several routers have a problem; `None` if all is well.
    fn router_trouble(&self) -> Option<String> {
        if let Err(error) = &self.active {
            return Some(error.to_string());
        }
        let problems: Vec<String> = self
            .routers
            .iter()
            .filter_map(|router| Some(format!("{}: {}", router.name, router.problem.as_ref()?)))
            .collect();
        (!problems.is_empty()).then(|| problems.join("; "))
    }

    /// Whether the router answers, or at least one of several routers takes part in switches.
    fn router_answers(&self) -> bool {
        let well = self.routers.iter().any(|router| router.problem.is_none());
        self.active.is_ok() && (self.routers.is_empty() || well)
    }
}

/// Sends a health check and a test request, as during a bake.
async fn check(ports: &Ports, color: Color, example: Option<&Example>) -> Result<Health, String> {
    let target = Target::Server(color);
    let predict = async {
        match example {
            Some(example) => ports.probe.predict(target, example).await.map(drop),
            None => Ok(()),
        }
    };
    let (health, predicted) = tokio::join!(ports.probe.health(target), predict);
    predicted.and(health).map_err(|error| error.to_string())
}

/// Resolves when the background action ends. Without an action it never resolves.
async fn end_of<T: Future + Unpin>(action: &mut Option<T>) -> T::Output {
    match action {
        Some(action) => action.await,
        None => std::future::pending().await,
    }
}

impl Monitor<'_> {
    /// Says where the page is, also to `deployer page-link`.
    fn announce_page(&self, page: Option<&PageServer>) {
        let state = &self.settings.state;
        let Some(page) = page else {
            address::forget(state);
            return;
        };
        let url = &page.url;
        self.note(format!(
            "the page is at {url}; `deployer page-link` makes a link that signs you in"
        ));
        if let Err(error) = address::record(state, url) {
            self.note(format!(
                "`deployer page-link` will not find the page: {error}"
            ));
        }
    }

    async fn run_until(&mut self, shutdown: impl Future<Output = ()>) {
        self.read_log().await;
        let mut ticks = tokio::time::interval(self.settings.monitor.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (ports, example) = (self.ports, self.example);
        let mut stop = pin!(shutdown);
        loop {
            let mut checks = pin!(async {
                ticks.tick().await;
                CheckResults::get(ports, example).await
            });
            let results = loop {
                tokio::select! {
                    biased;
                    () = &mut stop => return,
                    started = end_of(&mut self.job) => {
                        self.job = None;
                        if let Some(color) = started {
                            self.colors[index(color)].restarted = Some(Instant::now());
                        }
                    }
                    differences = end_of(&mut self.comparison) => {
                        self.comparison = None;
                        self.report_changed_releases(differences);
                    }
                    from_page = next_of(&mut self.inbox) => self.handle(from_page).await,
                    results = &mut checks => break results,
                }
            };
            // Completed once begun: a move of traffic is recorded.
            self.record(results).await;
        }
    }

    /// Alerts about changes, and acts.
    async fn record(&mut self, results: CheckResults) {
        let router_trouble = results.router_trouble();
        let router_answers = results.router_answers();
        let CheckResults {
            active,
            routers,
            colors,
        } = results;
        for (monitored, answer) in self.colors.iter_mut().zip(colors) {
            monitored.record(answer);
        }
        self.record_router(router_trouble.as_deref(), routers.len());
        // If the router is down, the flags say which color is active.
        let active = match active {
            Ok(active) => Some(active),
            Err(_) => self.ports.flags.active().await.ok(),
        };
        // Before the log may be emptied.
        self.read_log().await;
        // Nothing is done to colors whose roles are unknown. The router then counts as down, which is an alert.
        if let Some(active) = active {
            self.act(active, router_answers).await;
        }
        self.update_metrics(active, router_answers).await;
        self.read_history().await;
        self.show_on_page(active, router_trouble, routers).await;
    }

    /// Shows what is known now on the page. `active` is `None` if it is unknown.
    pub(super) async fn show_on_page(
        &mut self,
        active: Option<Color>,
        router_trouble: Option<String>,
        routers: Vec<RouterStatus>,
    ) {
        let Some(page) = &mut self.page else {
            return;
        };
        let results = RoundResults {
            now: self.ports.clock.now(),
            active,
            router_trouble,
            routers,
            colors: &self.colors,
        };
        page.show(self.settings, self.ports, results).await;
    }

    /// Records the checks of both colors, and does what follows from them.
    async fn act(&mut self, active: Color, router_answers: bool) {
        let entries = self.read_journal().await;
        let holder = self.ports.lock.holder().await;
        let busy = holder.as_ref().is_some_and(|it| !self.is_this(it));
        let unfinished = entries
            .as_ref()
            .and_then(JournalEntries::unfinished_deployment);
        let last_deployment = entries.as_ref().map(JournalEntries::last_deployment);
        for color in Color::BOTH {
            // A deployment replaces the idle color and checks it itself.
            let replaced =
                busy && color != active && unfinished.is_some_and(|it| replaces(it, color));
            self.record_color(color, active, replaced, last_deployment.as_ref())
                .await;
        }
        if busy {
            return;
        }
        if let Some(last_deployment) = &last_deployment {
            for color in Color::BOTH {
                self.update_fit_flag(color, active, last_deployment).await;
            }
        }
        // The journal does not decide where traffic goes.
        if router_answers {
            self.fail_over(active).await;
        }
        if let Some(entries) = &entries {
            self.start_stopped_standby(active.other());
            // The monitor's own action looks like an interrupted command until it ends.
            if holder.is_none() {
                self.report_interruption(entries).await;
            }
        }
        self.compare_releases();
        self.trim_logs();
    }

    /// Returns the journal; `None` if it is unreadable, which is reported once.
    async fn read_journal(&mut self) -> Option<JournalEntries> {
        let read = self.ports.journal.read().await;
        let reported = std::mem::replace(&mut self.journal_unreadable, read.is_err());
        match read {
            Ok(entries) => Some(entries),
            Err(error) => {
                if !reported {
                    self.note(error.to_string());
                }
                None
            }
        }
    }

    /// Records a check of a color that has the traffic or is a standby.
    ///
    /// Any other color may be down: its tracker is reset to up, so nothing follows from its checks.
    async fn record_color(
        &mut self,
        color: Color,
        active: Color,
        replaced: bool,
        last_deployment: Option<&LastDeployment>,
    ) {
        let unknown = LastDeployment::default();
        let view = self.view(color, active, last_deployment.unwrap_or(&unknown));
        let Some(view) = view.await else {
            return;
        };
        if replaced || !self.color_memory(color).is_relevant(view) {
            self.reset(color);
            return;
        }
        let monitored = &mut self.colors[index(color)];
        if monitored.tracker.record(monitored.trouble.is_none()) {
            self.report_change(color, active);
        }
    }

    async fn update_metrics(&mut self, active: Option<Color>, router_answers: bool) {
        let flags = &self.ports.flags;
        let fit = [
            flags.is_fit(Color::Blue).await == Ok(true),
            flags.is_fit(Color::Green).await == Ok(true),
        ];
        self.metrics.update_colors(active, &self.colors, fit);
        self.metrics.update_router(router_answers);
    }

    /// Counts the ends of deployments, and announces those that no command announced.
    async fn read_history(&self) {
        if let Ok(history) = self.ports.journal.read_history().await {
            let now = self.ports.clock.now();
            self.metrics.count_history(&history.entries, now);
            self.notifier.announce(&history.entries);
        }
    }

    /// Counts what was logged since the last call, and alerts about the router's own errors. A log that cannot be read is
    /// read on later.
    async fn read_log(&mut self) {
        let Some(log) = &self.ports.request_log else {
            return;
        };
        if let Ok(part) = log.read(self.read_up_to.clone()).await {
            if let Some(page) = &mut self.page {
                page.add(&part.requests, self.ports.clock.now());
            }
            // Requests logged before the start are not new.
            if self.read_up_to.replace(part.next).is_some() {
                let versions = self.colors.each_ref().map(MonitoredColor::version);
                self.metrics.count_requests(&part.requests, versions);
                self.report_router_errors(&part.requests);
            }
        }
    }

    /// Alerts if the router went down or up.
    fn record_router(&mut self, trouble: Option<&str>, routers: usize) {
        if !self.router.record(trouble.is_none()) {
            return;
        }
        let (kind, text) = match trouble {
            None if routers > 0 => (Kind::Up, format!("all {routers} routers take part again")),
            None => (Kind::Up, "the router answers again".to_owned()),
            Some(trouble) if routers > 0 => {
                let text = format!(
                    "not every router takes part, so no release can be deployed: {trouble}"
                );
                (Kind::Down, text)
            }
            Some(trouble) => (Kind::Down, format!("the router is down: {trouble}")),
        };
        self.alert(kind, None, text);
        self.state.set_down(None, trouble.is_some());
        self.save_state();
    }

    /// Forgets the earlier checks of a color.
    fn reset(&mut self, color: Color) {
        self.colors[index(color)].tracker = self.settings.monitor.health_tracker(true);
        if std::mem::take(&mut self.state.colors[index(color)].down) {
            self.save_state();
        }
    }

    /// Alerts that a color went down or up.
    fn report_change(&mut self, color: Color, active: Color) {
        let monitored = &self.colors[index(color)];
        let down = !monitored.tracker.is_up();
        let role = if color == active {
            "active"
        } else {
            "the standby"
        };
        let who = format!("{color}{}, {role},", monitored.shown_version());
        let (kind, text) = match &monitored.trouble {
            Some(trouble) if down => (Kind::Down, format!("{who} is down: {trouble}")),
            _ => (Kind::Up, format!("{who} is up again")),
        };
        // In this order: a monitor that is killed in between alerts twice instead of never.
        self.alert(kind, Some(color), text);
        self.state.set_down(Some(color), down);
        self.save_state();
    }

    /// Alerts once that a command was interrupted and that no other command has completed it.
    async fn report_interruption(&mut self, entries: &JournalEntries) {
        let pending = entries.traffic_move.as_ref();
        let pending = pending.map(|pending| (pending.at.to_string(), pending.to_string()));
        let deployment = entries.unfinished_deployment().map(|entry| {
            let (id, phase) = (&entry.plan.id, entry.phase);
            (
                format!("{id} {phase}"),
                format!("deployment {id}, last seen {phase},"),
            )
        });
        let found = pending.or(deployment);
        let key = found.as_ref().map(|(key, _)| key.clone());
        // A command that ends between two reads looks interrupted for a moment.
        let lasts = key.is_some() && key == self.suspect;
        self.suspect.clone_from(&key);
        let Some((_, what)) = found.filter(|_| lasts && key != self.state.interrupted) else {
            return;
        };
        self.alert(
            Kind::Interrupted,
            None,
            format!("{what} was interrupted: `deployer recover` completes it"),
        );
        self.state.interrupted = key;
        self.save_state();
        // The interrupted command may have left copies of requests on.
        let Some(_lock) = self.lock().await else {
            return;
        };
        if let Err(error) = self.ports.flags.set_shadow(false).await {
            self.note(error.to_string());
        }
    }

    fn trim_logs(&mut self) {
        if self.trimmed.is_some_and(|at| at.elapsed() < BETWEEN_TRIMS) {
            return;
        }
        let first = self.trimmed.replace(Instant::now()).is_none();
        if let Err(error) = adapters::trim_logs(self.settings)
            && first
        {
            self.note(error.to_string());
        }
    }
}

/// Returns whether an unfinished deployment replaces what `color` runs.
fn replaces(unfinished: &DeploymentEntry, color: Color) -> bool {
    unfinished.plan.idle == color && unfinished.phase != Phase::Planned
}
