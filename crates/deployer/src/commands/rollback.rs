//! `deployer rollback`

use super::{Ended, print, who};
use crate::{
    adapters,
    color::Color,
    config::Settings,
    event::{Event, Reporter},
    exit_code,
    journal::{Journal, JournalError},
    phase::Phase,
};

pub(super) async fn run(
    settings: &Settings,
    journal: &Journal,
    reporter: &dyn Reporter,
) -> anyhow::Result<u8> {
    let world = adapters::connect(settings, Vec::new())?;
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
    let displaced = world.router.point_at(previous).await?;
    reporter.report(&Event::Moved {
        from: displaced,
        to: previous,
    });
    // Traffic has moved: a journal that cannot take note of it is worth a line, not a failure.
    if let Err(error) = take_note(journal, displaced) {
        reporter.report(&Event::Note {
            text: error.to_string(),
        });
    }
    print(&format!("rolled back: {previous} serves {version}"));
    Ok(exit_code::FINE)
}

fn take_note(journal: &Journal, displaced: Color) -> Result<(), JournalError> {
    match journal.last()? {
        Some(entry) if entry.plan.idle == displaced => {
            journal.reached(&entry.plan, Phase::RolledBack, Some("by hand"))
        }
        _ => Ok(()),
    }
}
