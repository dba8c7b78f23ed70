//! Steps that several commands share.

use anyhow::anyhow;

use crate::{
    color::Color,
    commands::output::CommandOutput,
    config::Settings,
    deployment::{
        recover::{self, Recovery},
        restore::restore_release,
    },
    event::{Event, Reporter},
    ports::{Ports, Target},
    report::{Recorder, Reporters, Reports},
    shutdown::shutdown,
    state::journal::Journal,
};

/// Aborts a prepared change of several routers' flags, and ends the copies of client requests to the idle color. Called first
/// by a command that holds the lock: only a killed deployer can have left them.
pub(super) async fn end_leftovers(ports: &Ports, reporter: &dyn Reporter) {
    let note = |text| reporter.report(&Event::Note { text });
    match ports.router.abort_prepared().await {
        Ok(None) => {}
        Ok(Some(by)) => note(format!(
            "a change of the flags was prepared and not decided, and was aborted: {by}"
        )),
        Err(error) => note(error.to_string()),
    }
    if let Err(error) = ports.flags.set_shadow(false).await {
        note(error.to_string());
    }
}

/// Completes or undoes what a killed deployer left, in its report too, and gives the idle color its release back.
pub(super) async fn recover(
    settings: &Settings,
    ports: &Ports,
    journal: &Journal<'_>,
    reporter: &dyn Reporter,
) -> anyhow::Result<Recovery> {
    let reports = &Reports::of(&settings.state);
    let recorder = Recorder::new(reports.clone());
    let reporter = &Reporters(vec![reporter, &recorder]);
    let recovery = recover::recover(ports, journal, reports, reporter).await?;
    give_back_release(settings, ports, journal, None, reporter).await;
    Ok(recovery)
}

/// Gives the idle color back the release that it held before a deployment that failed; see [`restore_release`]. A signal
/// ends this.
pub(super) async fn give_back_release(
    settings: &Settings,
    ports: &Ports,
    journal: &Journal<'_>,
    id: Option<&str>,
    reporter: &dyn Reporter,
) -> bool {
    tokio::select! {
        restored = restore_release(&settings.health, ports, journal, id, reporter) => restored,
        () = shutdown() => {
            let text = "stop signal received: the idle color does not get its release back now; `deployer up` starts it".to_owned();
            reporter.report(&Event::Note { text });
            ports.fleet.await_abandoned().await;
            false
        }
    }
}

/// Carries out a command until a stop signal arrives. What the fleet has begun then ends before this returns.
pub(super) async fn until_stopped(
    ports: &Ports,
    reporter: &dyn Reporter,
    command: impl Future<Output = anyhow::Result<CommandOutput>>,
) -> anyhow::Result<CommandOutput> {
    tokio::select! {
        done = command => return done,
        () = shutdown() => {}
    }
    let text = "stop signal received: waiting for the end of what was begun".to_owned();
    reporter.report(&Event::Note { text });
    ports.fleet.await_abandoned().await;
    Err(anyhow!("interrupted: run the command again to complete it"))
}

/// The version that `color` serves, or why it is not healthy.
pub(super) async fn served_version(ports: &Ports, color: Color) -> Result<String, String> {
    match ports.probe.health(Target::Server(color)).await {
        Ok(health) => Ok(health
            .model_version
            .unwrap_or_else(|| "a release that reports no version".to_owned())),
        Err(error) => Err(error.to_string()),
    }
}
