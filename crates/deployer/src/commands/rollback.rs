//! `deployer rollback`

use super::{Done, Ended, stop_leftover_copies, who};
use crate::{
    config::Settings,
    event::{Event, Reporter},
    exit_code,
    history::Deed,
    journal::{Journal, JournalError},
    ports::World,
    recover::{self, Settled},
    report::{All, Recorder, Reports},
    transfer::Transfer,
};

pub(super) async fn run(
    settings: &Settings,
    journal: &Journal,
    world: &World,
    reporter: &dyn Reporter,
) -> anyhow::Result<Done> {
    let recorder = Recorder::new(Reports::of(&settings.state));
    stop_leftover_copies(world, reporter);
    world.router.active().await.map_err(Ended::refused)?;
    // Whoever rolls back has no time for a journal that cannot be read.
    let unfinished = match journal.last() {
        Ok(last) => last.is_some_and(|entry| !entry.phase.is_end()),
        Err(error) => {
            let text = error.to_string();
            reporter.report(&Event::Note { text });
            false
        }
    };
    if unfinished || journal.intent().is_some() {
        let reporter = &All(vec![reporter, &recorder]);
        match recover::settle(world, journal, reporter).await? {
            Settled::Halted(reason) => return Err(Ended::halted(reason)),
            // It was what there was to roll back.
            Settled::RolledBack(color) => {
                let version = who(world, color).await.unwrap_or_else(|error| error);
                return Ok(Done::fine(format!("rolled back: {color} serves {version}")));
            }
            Settled::Fine => {}
        }
    }
    let active = world.router.active().await.map_err(Ended::refused)?;
    let previous = active.other();
    if !world.router.is_fit(previous) {
        return Err(Ended::refused(format!(
            "nothing to roll back to: {previous} holds no release that was promoted; `deployer switch {previous}` moves traffic to it all the same"
        )));
    }
    let version = who(world, previous).await.map_err(|error| {
        Ended::refused(format!(
            "{previous} is not healthy, so traffic stays on {active}: {error}"
        ))
    })?;
    let transfer = Transfer {
        world,
        journal,
        reporter,
    };
    let moved = transfer.make(Deed::RolledBack, active, previous, "by hand");
    moved.await.map_err(Ended::halted)?;
    Ok(Done::fine(format!(
        "rolled back: {previous} serves {version}"
    )))
}

/// Who wants to roll back while another deployer is at work cannot always wait for it.
pub(super) fn way_out(settings: &Settings, error: JournalError) -> anyhow::Error {
    match error {
        JournalError::Busy { ref holder } => {
            let interrupted = if holder.as_ref().is_some_and(|it| it.is_watch()) {
                "Told to stop (SIGTERM), it lets go at once"
            } else {
                "Interrupted (Ctrl-C, SIGTERM), it gives traffic back by itself"
            };
            let flag = settings.router.flags.join("green");
            let flag = flag.display();
            Ended::with(
                exit_code::BUSY,
                format!(
                    "{error}. {interrupted}; without any deployer, blue gets all traffic by `rm -f {flag}`, green by `touch {flag}`"
                ),
            )
        }
        other => other.into(),
    }
}
