//! `deployer deploy [VERSION]`

use jiff::Timestamp;
use model_repository::ReleaseDirectory;
use tokio::signal::unix::{SignalKind, signal};

use super::{Ended, print};
use crate::{
    adapters,
    color::Color,
    config::Settings,
    event::{Event, Reporter},
    examples::Examples,
    exit_code,
    journal::Journal,
    plan::Plan,
    ports::{Service, World},
    recover::{self, Settled},
    release::Release,
    report::{All, Recorder, Reports},
    rollout::Rollout,
};

pub(super) async fn run(
    settings: &Settings,
    version: Option<String>,
    journal: &Journal,
    terminal: &dyn Reporter,
) -> anyhow::Result<u8> {
    let reports = Reports::of(&settings.state);
    let recorder = Recorder::new(reports.clone());
    let reporter = &All(vec![terminal, &recorder]);
    let examples = Examples::read(settings).map_err(Ended::usage)?;
    if let Err(error) = adapters::trim_logs(settings) {
        reporter.report(&Event::Note {
            text: error.to_string(),
        });
    }
    let world = adapters::connect(settings)?;
    world.router.active().await.map_err(Ended::refused)?;
    let active = match recover::settle(&world, journal, reporter).await? {
        Settled::Fine => world.router.active().await.map_err(Ended::refused)?,
        Settled::Halted(reason) => return Err(Ended::halted(reason)),
    };
    let version = match version {
        Some(version) => version,
        None => held_version(&world, settings, active.other()).await,
    };
    let release = wanted(settings, version).map_err(Ended::usage)?;
    let plan = Plan::new(Timestamp::now(), active, release);
    let outcome = Rollout {
        settings,
        plan: &plan,
        examples: &examples,
        world: &world,
        journal,
        reporter,
    }
    .run(told_to_stop())
    .await;
    let text = match recorder.problem() {
        Some(problem) => problem,
        None => format!("the report is {}", reports.page(&plan.id).display()),
    };
    terminal.report(&Event::Note { text });
    print(&format!(
        "{}: {} on {}",
        outcome.phase, plan.release.version, plan.idle
    ));
    Ok(exit_code::of(outcome.phase))
}

/// Resolves at Ctrl-C or SIGTERM.
pub(super) async fn told_to_stop() {
    tokio::select! {
        () = received(SignalKind::interrupt()) => (),
        () = received(SignalKind::terminate()) => (),
    }
}

/// Resolves when the signal comes; never where it cannot be listened for.
async fn received(kind: SignalKind) {
    match signal(kind) {
        Ok(mut signals) => drop(signals.recv().await),
        Err(_) => std::future::pending().await,
    }
}

/// The version to assume for `color` when nobody says otherwise.
pub(super) async fn held_version(world: &World, settings: &Settings, color: Color) -> String {
    let recorded = world
        .fleet
        .inspect(Service::Server(color))
        .await
        .ok()
        .and_then(|(_, version)| version);
    recorded.unwrap_or_else(|| settings.color(color).version.clone())
}

/// What the candidate must turn out to be, as far as this machine can know.
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
