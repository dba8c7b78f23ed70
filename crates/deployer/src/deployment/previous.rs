//! Which color a rollback gives the traffic to.

use crate::{
    color::Color,
    ports::{Ports, Target},
    state::journal_entries::JournalEntries,
};

/// The other color than `active`, if it holds a release that was promoted. The error says why there is nothing to roll back
/// to.
pub(crate) async fn fit_previous(
    ports: &Ports,
    entries: &JournalEntries,
    active: Color,
) -> Result<Color, String> {
    let previous = active.other();
    let fit = ports.flags.is_fit(previous).await;
    if !fit.map_err(|error| error.to_string())? {
        return Err(format!(
            "nothing to roll back to: {previous} holds no release that was promoted; `deployer switch {previous}` moves traffic to it without this check"
        ));
    }
    let health = ports.probe.health(Target::Server(previous)).await.ok();
    let version = health.and_then(|health| health.model_version);
    // A rollback must not wait for an unreadable history.
    let history = ports.journal.read_history().await.unwrap_or_default();
    if let Some(last) = &entries.deployment
        && entries.nothing_to_roll_back(&history.entries, active, version.as_deref())
    {
        return Err(format!(
            "deployment {} is rolled back already, and {active} serves what it served before; `deployer rollback {}` goes back further",
            last.plan.id,
            version.unwrap_or_default()
        ));
    }
    Ok(previous)
}
