//! Starts the candidate of a deployment on the idle color.

use std::{cell::Cell, time::Duration};

use tokio::time::timeout;

use crate::deployment::{
    phase::Phase,
    plan::Plan,
    rollout::{Rollout, message},
    stopping::contradictions_of,
};

impl Rollout<'_> {
    /// The path from the plan to the start of the candidate on the idle color.
    pub(super) async fn start_candidate(
        &self,
        phase: &Cell<Phase>,
        active_down: bool,
    ) -> Result<(), String> {
        let Plan { active, idle, .. } = *self.plan;
        self.hook_before(Phase::Starting).await?;
        self.prepare_candidate().await?;
        // Before `Starting`: if a flag cannot be changed, the standby is still untouched and must not be
        // stopped.
        let flags = &self.ports.flags;
        flags.set_fit(active, !active_down).await.map_err(message)?;
        flags.set_fit(idle, false).await.map_err(message)?;
        self.reach(phase, Phase::Starting).await?;
        self.hook_after(Phase::Starting, None).await;
        let started = self.ports.fleet.start(idle, &self.plan.release.version);
        started.await.map_err(message)
    }

    /// Fetches what the candidate needs while the idle color is untouched.
    async fn prepare_candidate(&self) -> Result<(), String> {
        /// A person wonders what takes so long.
        const NOTE_AFTER: Duration = Duration::from_secs(3);

        let version = &self.plan.release.version;
        let mut preparing = self.ports.fleet.prepare(self.plan.idle, version);
        let prepared = if let Ok(prepared) = timeout(NOTE_AFTER, &mut preparing).await {
            prepared
        } else {
            self.note(format!(
                "what {version} needs, such as its image, is being fetched"
            ));
            preparing.await
        };
        prepared.map_err(message)
    }

    /// Notes if the started candidate will be killed before it can finish its requests.
    pub(super) async fn note_short_stop(&self) {
        for found in contradictions_of(self.settings, self.ports, self.plan.idle).await {
            self.note(format!("{}; {}", found.text, found.advice));
        }
    }
}
