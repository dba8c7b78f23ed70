//! `deployer deploy [VERSION]`

use jiff::Timestamp;
use model_repository::ReleaseDirectory;
use tokio::signal::unix::{SignalKind, signal};

use super::{Ended, held_version, print};
use crate::{
    adapters,
    config::Settings,
    event::{Event, Reporter},
    exit_code,
    journal::Journal,
    plan::Plan,
    recover::{self, Settled},
    release::Release,
    rollout::Rollout,
};

pub(super) async fn run(
    settings: &Settings,
    version: Option<String>,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<u8> {
    let inputs = adapters::read_inputs(&settings.probe.inputs).map_err(Ended::usage)?;
    if let Err(error) = adapters::trim_access_log(settings) {
        reporter.report(&Event::Note {
            text: error.to_string(),
        });
    }
    let mut world = adapters::connect(settings, inputs)?;
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
        world: &mut world,
        journal,
        reporter,
    }
    .run(told_to_stop())
    .await;
    print(&format!(
        "{}: {} on {}",
        outcome.phase, plan.release.version, plan.idle
    ));
    Ok(exit_code::of(outcome.phase))
}

/// Resolves at Ctrl-C or SIGTERM.
async fn told_to_stop() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => signals.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    let interrupted = async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = terminated => (),
        () = interrupted => (),
    }
}

/// What the candidate must turn out to be, as far as this machine can know.
fn wanted(
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
