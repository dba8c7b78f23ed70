//! `deployer deploy [VERSION]`

use jiff::Timestamp;
use model_repository::ReleaseDirectory;

use super::{Ended, held_version, print};
use crate::{
    adapters, config::Settings, event::Reporter, exit_code, journal::Journal, plan::Plan, recover,
    release::Release, rollout::Rollout,
};

pub(super) async fn run(
    settings: &Settings,
    version: Option<String>,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<u8> {
    let inputs = adapters::read_inputs(&settings.probe.inputs).map_err(Ended::usage)?;
    let mut world = adapters::connect(settings, inputs)?;
    recover::settle(&world, journal, reporter).await?;
    let active = world.router.active().await.map_err(Ended::refused)?;
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
    .run()
    .await;
    print(&format!(
        "{}: {} on {}",
        outcome.phase, plan.release.version, plan.idle
    ));
    Ok(exit_code::of(outcome.phase))
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
