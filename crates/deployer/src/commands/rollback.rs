//! `deployer rollback`

use super::{Ended, move_by_hand, print, who};
use crate::{
    adapters,
    config::Settings,
    event::Reporter,
    exit_code,
    journal::{Journal, JournalError},
};

pub(super) async fn run(
    settings: &Settings,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<u8> {
    let world = adapters::connect(settings)?;
    let active = world.router.active().await.map_err(Ended::refused)?;
    let previous = active.other();
    if !world.router.is_fit(previous) {
        return Err(Ended::refused(format!(
            "nothing to roll back to: {previous} holds no release that was promoted; `deployer switch {previous}` moves traffic to it all the same"
        )));
    }
    let version = who(&world, previous).await.map_err(|error| {
        Ended::refused(format!(
            "{previous} is not healthy, so traffic stays on {active}: {error}"
        ))
    })?;
    world.router.set_fit(active, false)?;
    move_by_hand(&world, journal, reporter, previous).await?;
    print(&format!("rolled back: {previous} serves {version}"));
    Ok(exit_code::FINE)
}

/// Who wants to roll back while another deployer is at work cannot always wait for it.
pub(super) fn way_out(settings: &Settings, error: JournalError) -> anyhow::Error {
    match error {
        JournalError::Busy { .. } => Ended::with(
            exit_code::BUSY,
            format!(
                "{error}. Interrupted (Ctrl-C, SIGTERM), it gives traffic back by itself; without any deployer, blue gets all traffic by `rm -f {flag}`, green by `touch {flag}`",
                flag = settings.router.flags.join("green").display()
            ),
        ),
        other => other.into(),
    }
}
