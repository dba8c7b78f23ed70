//! `deployer deploy [VERSION]`

use model_repository::ReleaseDirectory;
use serde_json::json;

use crate::{
    adapters,
    color::Color,
    commands::{
        output::{CommandError, CommandOutput},
        steps::{end_leftovers, give_back_release},
    },
    config::Settings,
    deployment::{
        decisions::Decisions,
        phase::Phase,
        plan::Plan,
        preflight,
        recover::{self, Recovery},
        restore::ReleaseToHold,
        rollout::{Outcome, Rollout},
        scope::Scope,
    },
    event::{Event, Reporter},
    examples::Examples,
    exit_code,
    ports::{Ports, Service, ServiceState, Target},
    release::{HeldRelease, Release},
    report::{Recorder, Reporters, Reports},
    request_reader::RequestReader,
    shutdown::stopped,
    state::{journal::Journal, operator_request::OperatorRequests},
};

/// What is deployed.
pub(super) struct ToDeploy {
    /// The version; `None` for the one that the idle color holds.
    pub(super) version: Option<String>,
    pub(super) scope: Scope,
    /// Why a person asks for it.
    pub(super) reason: Option<String>,
}

pub(super) async fn run(
    settings: &Settings,
    release: ToDeploy,
    journal: &Journal<'_>,
    ports: &Ports,
    terminal: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let done = prove_and_switch(settings, release, journal, ports, terminal).await;
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
    ToDeploy {
        version,
        scope,
        reason,
    }: ToDeploy,
    journal: &Journal<'_>,
    ports: &Ports,
    terminal: &dyn Reporter,
) -> anyhow::Result<CommandOutput> {
    let reports = Reports::of(&settings.state);
    let recorder = Recorder::new(reports.clone());
    let reporter = &Reporters(vec![terminal, &recorder]);
    let operator_requests = &open_operator_requests(settings, reporter);
    let examples = Examples::read(settings).map_err(CommandError::usage)?;
    end_leftovers(ports, reporter).await;
    ports.router.active().await.map_err(CommandError::refused)?;
    if let Recovery::Halted(reason) = recover::recover(ports, journal, &reports, reporter).await? {
        return Err(CommandError::halted(reason));
    }
    let plan = tokio::select! {
        biased;
        stop = stopped(operator_requests) => {
            return Err(CommandError::refused(format!("nothing was changed: {stop}")));
        }
        plan = prepare(settings, ports, version, scope) => plan?,
    };
    let decisions = Decisions::about(&plan.id, &settings.state);
    if let Some(reason) = reason {
        decisions.add_reason(reason);
    }
    let own_requests = operator_requests.for_deployment(&plan.id);
    let outcome = Rollout {
        settings,
        plan: &plan,
        scope,
        examples: &examples,
        ports,
        requests: RequestReader::new(ports.request_log.as_deref(), reporter),
        journal,
        decisions,
        reporter,
    }
    .run(|| stopped(&own_requests))
    .await;
    let restored = give_back_release(settings, ports, journal, Some(&plan.id), reporter).await;
    // A refused release leaves an image and a report too. After a halt a person needs everything, and the release that
    // could not be restored needs its image.
    if outcome.phase != Phase::Halted && restored {
        for text in prune(settings, ports).await {
            terminal.report(&Event::Note { text });
        }
    }
    Ok(done(&outcome, &plan, &reports, &recorder, terminal))
}

/// The requests to the deployer of this deployment. Removes those that were sent to an earlier one.
pub(super) fn open_operator_requests(
    settings: &Settings,
    reporter: &dyn Reporter,
) -> OperatorRequests {
    let requests = OperatorRequests::of(&settings.state);
    if let Err(error) = requests.open() {
        let text = format!("requests of other commands cannot be received: {error}");
        reporter.report(&Event::Note { text });
    }
    requests
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
    if let Some(text) = recorder.live_problem() {
        terminal.report(&Event::Note { text });
    }
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
        text = format!("{text}, but this could not be recorded: {problem}");
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
        "trace": plan.trace.as_ref().map(|trace| &trace.id),
    }))
}

/// Checks all preconditions, and plans the deployment.
pub(super) async fn prepare(
    settings: &Settings,
    ports: &Ports,
    version: Option<String>,
    scope: Scope,
) -> anyhow::Result<Plan> {
    let active = ports.router.active().await.map_err(CommandError::refused)?;
    let checked = preflight::check(
        settings,
        ports,
        (scope == Scope::Compared).then_some(active),
    )
    .await;
    checked.map_err(CommandError::refused)?;
    let idle = active.other();
    let inspected = ports.fleet.inspect(Service::Server(idle)).await.ok();
    let (state, recorded) = inspected.unwrap_or((ServiceState::Unmanaged, None));
    let to_hold = ReleaseToHold::of(ports.journal.as_ref(), idle, recorded.as_deref()).await;
    let version = version.or_else(|| to_hold.version(recorded.clone()));
    let version = version.unwrap_or_else(|| settings.color(idle).version.clone());
    let release = wanted(settings, version).await?;
    let idle_was_fit = ports.flags.is_fit(idle).await;
    let runs = state == ServiceState::Running;
    let (idle_release, idle_ran) = match to_hold {
        ReleaseToHold::LastStarted => (held_release(ports, idle, recorded).await, runs),
        // Since then, the color has run the release that failed.
        ReleaseToHold::Earlier { release, ran } => (Some(release), ran),
        ReleaseToHold::Unknown => (None, runs),
    };
    Ok(Plan {
        idle_was_fit: idle_was_fit.map_err(CommandError::refused)?,
        idle_release,
        idle_ran,
        trace: adapters::traces::begin(settings),
        outside_window: settings.windows.overridden.clone(),
        ..Plan::new(ports.clock.now(), active, release)
    })
}

/// The release that `color` holds, whose version is `recorded`.
async fn held_release(
    ports: &Ports,
    color: Color,
    recorded: Option<String>,
) -> Option<HeldRelease> {
    let version = recorded?;
    let health = ports.probe.health(Target::Server(color)).await.ok();
    Some(HeldRelease {
        version,
        image: ports.fleet.image(color),
        digest: health.and_then(|health| health.model_digest),
    })
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
    let inspected = ports.fleet.inspect(Service::Server(color)).await.ok();
    let recorded = inspected.and_then(|(_, version)| version);
    let to_hold = ReleaseToHold::of(ports.journal.as_ref(), color, recorded.as_deref()).await;
    let held = to_hold.version(recorded);
    held.unwrap_or_else(|| settings.color(color).version.clone())
}

/// The release that the candidate must be, as far as this machine knows it.
pub(super) async fn wanted(settings: &Settings, version: String) -> anyhow::Result<Release> {
    let model = settings.release.model.clone();
    let digest = match settings.release.model_root.clone() {
        Some(root) => {
            let (model, version) = (model.clone(), version.clone());
            // Reading the files of a large model takes seconds.
            let digest = tokio::task::spawn_blocking(move || {
                ReleaseDirectory::locate(&root, &model, &version)?.digest()
            });
            Some(digest.await?.map_err(CommandError::usage)?)
        }
        None => None,
    };
    Ok(Release {
        model,
        version,
        digest,
    })
}
