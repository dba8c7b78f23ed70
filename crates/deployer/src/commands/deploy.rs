//! `deployer deploy [VERSION]`

use jiff::Timestamp;
use model_repository::ReleaseDirectory;
use serde_json::json;

use crate::{
    adapters,
    color::Color,
    commands::{
        output::{CommandError, CommandOutput},
        steps::stop_leftover_shadow,
    },
    config::{GateName, Settings},
    deployment::{
        phase::Phase,
        plan::Plan,
        preflight,
        recover::{self, Recovery},
        rollout::{Outcome, Rollout},
    },
    event::{Event, Reporter},
    examples::Examples,
    exit_code,
    ports::{Ports, Service, Target},
    release::Release,
    report::{Recorder, Reporters, Reports},
    shutdown::shutdown,
    state::{
        journal::{self, Journal},
        lock_holder, traffic_move,
    },
};

pub(super) async fn run(
    settings: &Settings,
    version: Option<String>,
    active_down: bool,
    journal: &Journal,
    ports: &Ports,
    terminal: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let done = prove_and_switch(settings, version, active_down, journal, ports, terminal).await;
    // At the end, because a release is compared with earlier log lines; and after every end, because a log that
    // fills the disk blocks the next deployment.
    if let Err(error) = adapters::trim_logs(settings) {
        let text = error.to_string();
        terminal.report(&Event::Note { text });
    }
    done
}

async fn prove_and_switch(
    settings: &Settings,
    version: Option<String>,
    active_down: bool,
    journal: &Journal,
    ports: &Ports,
    terminal: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let reports = Reports::of(&settings.state);
    let recorder = Recorder::new(reports.clone());
    let reporter = &Reporters(vec![terminal, &recorder]);
    let examples = Examples::read(settings).map_err(CommandError::usage)?;
    stop_leftover_shadow(ports, reporter);
    ports.router.active().await.map_err(CommandError::refused)?;
    if let Recovery::Halted(reason) = recover::recover(ports, journal, reporter).await? {
        return Err(CommandError::halted(reason));
    }
    let plan = prepare(settings, ports, version, active_down).await?;
    let outcome = Rollout {
        settings,
        plan: &plan,
        active_down,
        examples: &examples,
        ports,
        journal,
        reporter,
    }
    .run(shutdown)
    .await;
    // A refused release leaves an image and a report too. After a halt a person needs everything.
    if outcome.phase != Phase::Halted {
        for text in prune(settings, ports).await {
            terminal.report(&Event::Note { text });
        }
    }
    Ok(done(&outcome, &plan, &reports, &recorder, terminal))
}

/// Formats the outcome, and where the report is.
pub(super) fn done(
    outcome: &Outcome,
    plan: &Plan,
    reports: &Reports,
    recorder: &Recorder,
    terminal: &dyn Reporter,
) -> CommandOutput {
    let page = reports.page(&plan.id);
    let text = match recorder.problem() {
        Some(problem) => problem,
        None => format!("the report is {}", page.display()),
    };
    terminal.report(&Event::Note { text });
    let mut text = format!(
        "{}: {} on {}",
        outcome.phase, plan.release.version, plan.idle
    );
    let mut code = exit_code::of(outcome.phase);
    if let Some(problem) = &outcome.unwritten {
        text = format!("{text}, but this could not be written down: {problem}");
        // A program that reads only the exit code must notice that the end was not recorded.
        if code == exit_code::FINE {
            code = exit_code::UNEXPECTED;
        }
    }
    CommandOutput::with(code, text).with_object(json!({
        "event": "ended",
        "id": plan.id,
        "phase": outcome.phase,
        "reason": outcome.reason,
        "unwritten": outcome.unwritten,
        "report": page,
    }))
}

/// Checks all preconditions, and plans the deployment.
async fn prepare(
    settings: &Settings,
    ports: &Ports,
    version: Option<String>,
    active_down: bool,
) -> anyhow::Result<Plan> {
    let active = ports.router.active().await.map_err(CommandError::refused)?;
    let checked = preflight::check(settings, ports, (!active_down).then_some(active)).await;
    checked.map_err(CommandError::refused)?;
    let idle = active.other();
    let version = match version {
        Some(version) => version,
        None => held_version(ports, settings, idle).await,
    };
    let release = wanted(settings, version).map_err(CommandError::usage)?;
    Ok(Plan {
        idle_was_fit: ports.router.is_fit(idle),
        ..Plan::new(Timestamp::now(), active, release)
    })
}

/// `deployer deploy --dry-run`: describes the steps.
pub(super) async fn plan(
    settings: &Settings,
    version: Option<String>,
    active_down: bool,
    ports: &Ports,
) -> anyhow::Result<CommandOutput> {
    let examples = Examples::read(settings).map_err(CommandError::usage)?;
    let mut steps = Vec::new();
    if let Some(holder) = lock_holder::lock_holder(&settings.state) {
        steps.push(format!("wait: another deployer holds the lock: {holder}"));
    }
    if let Some(last) = journal::last_entry(&settings.state)?
        && !last.phase.is_end()
    {
        let (id, phase) = (last.plan.id, last.phase);
        steps.push(format!(
            "complete deployment {id}, whose last phase is {phase}"
        ));
    }
    if let Some(pending) = traffic_move::read(&settings.state) {
        steps.push(format!("complete {}", pending.words()));
    }
    let plan = prepare(settings, ports, version, active_down).await?;
    let Plan {
        active,
        idle,
        ref release,
        ..
    } = plan;
    let asked = ports.probe.health(Target::Server(active)).await;
    match asked {
        Ok(_) => steps.push(format!("ask whether {active} is healthy: it is now")),
        Err(error) if active_down => steps.push(format!(
            "leave out what compares with {active}, which is down: {error}"
        )),
        Err(error) => {
            return Err(CommandError::refused(format!(
                "nothing was changed; a deployment would be refused: the active color {active} is not healthy: {error}"
            )));
        }
    }
    let digest = release
        .digest
        .as_deref()
        .map_or("not checked", |digest| &digest[..12]);
    steps.push(format!(
        "start {} {} on {idle}, which may not stand in from then on; its model's digest: {digest}",
        release.model, release.version
    ));
    let (tries, interval) = (settings.health.tries, settings.health.interval);
    steps.push(format!(
        "wait until it is healthy: {tries} tries, one each {}",
        humantime::format_duration(interval)
    ));
    let mut gates = settings.gates.run.clone();
    gates.sort_unstable();
    gates.dedup();
    for gate in gates {
        steps.push(format!("gate {}", gate_in_words(gate, settings, &examples)));
    }
    steps.push(format!("move all traffic from {active} to {idle}"));
    let bake = &settings.bake;
    steps.push(format!(
        "bake for {}: at most {:.1} % errors, fewer than {} failed checks in a row; otherwise roll back",
        humantime::format_duration(bake.duration),
        bake.max_error_rate * 100.0,
        bake.failures
    ));
    steps.push(format!("keep {active} warm, fit to stand in"));
    let hooks = &settings.hooks;
    for (moment, commands) in [("before", &hooks.before), ("after", &hooks.after)] {
        let mut lines: Vec<String> = commands
            .iter()
            .filter_map(|(phase, command)| Some(format!("{} {moment} {phase}", command.first()?)))
            .collect();
        lines.sort();
        steps.extend(
            lines
                .into_iter()
                .map(|line| format!("on the way, run {line}")),
        );
    }
    let numbered = steps.iter().enumerate();
    let lines: Vec<String> = numbered
        .map(|(n, step)| format!("{:>3}. {step}", n + 1))
        .collect();
    let text = format!(
        "nothing was changed; a deployment would:\n{}",
        lines.join("\n")
    );
    Ok(CommandOutput::success(text)
        .with_object(json!({"event": "plan", "plan": plan, "steps": steps})))
}

fn gate_in_words(gate: GateName, settings: &Settings, examples: &Examples) -> String {
    let duration = humantime::format_duration;
    match gate {
        GateName::Identity => {
            "identity: it reports the name, version and digest that are wanted".to_owned()
        }
        GateName::Reachable => "reachable: the router reaches it".to_owned(),
        GateName::Smoke => format!("smoke: {} test requests", settings.smoke.requests),
        GateName::Golden => format!(
            "golden: right on {:.1} % of {} labeled inputs, and as often as the active release",
            settings.golden.min_accuracy * 100.0,
            examples
                .golden
                .iter()
                .filter(|it| it.expect.is_some())
                .count()
        ),
        GateName::Agreement => format!("agreement: {} inputs to both", examples.agreement.len()),
        GateName::Load => format!(
            "load: {} requests at a time for {}",
            settings.load.concurrency,
            duration(settings.load.duration)
        ),
        GateName::Comparison => format!(
            "comparison: at most {} × as long as the active release",
            settings.comparison.max_ratio
        ),
        GateName::Headroom => format!(
            "headroom: {} × the worst latency is below the router's time limit",
            settings.headroom.factor
        ),
        GateName::Shadow => format!(
            "shadow: copies of traffic for {}",
            duration(settings.shadow.duration)
        ),
    }
}

/// Removes old reports and images. Returns what failed.
async fn prune(settings: &Settings, ports: &Ports) -> Vec<String> {
    let reports = Reports::of(&settings.state).prune(settings.keep.reports);
    let images = ports.fleet.prune(settings.keep.images).await;
    let reports = reports.map_err(|error| error.to_string());
    let images = images.map_err(|error| error.to_string());
    reports.err().into_iter().chain(images.err()).collect()
}

/// The version of `color` if the user names none.
pub(super) async fn held_version(ports: &Ports, settings: &Settings, color: Color) -> String {
    let recorded = ports
        .fleet
        .inspect(Service::Server(color))
        .await
        .ok()
        .and_then(|(_, version)| version);
    recorded.unwrap_or_else(|| settings.color(color).version.clone())
}

/// The release that the candidate must be, as far as this machine knows it.
pub(super) fn wanted(
    settings: &Settings,
    version: String,
) -> Result<Release, model_repository::RepositoryError> {
    let model = settings.release.model.clone();
    let digest = match &settings.release.model_root {
        Some(root) => Some(ReleaseDirectory::locate(root, &model, &version)?.digest()?),
        None => None,
    };
    Ok(Release {
        model,
        version,
        digest,
    })
}
