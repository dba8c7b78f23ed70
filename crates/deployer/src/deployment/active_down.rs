//! Whether the active color is down when a deployment begins.

use crate::{
    color::Color,
    deployment::{
        plan::Plan,
        rollout::{Rollout, message},
        scope::Scope,
    },
    ports::{PortError, Target},
};

impl Rollout<'_> {
    /// Returns whether the active color is down. Fails if a deployment must not begin for that reason.
    pub(super) async fn active_is_down(&self) -> Result<bool, String> {
        let Plan { active, idle, .. } = *self.plan;
        let Err(trouble) = self.check_health(active).await else {
            if self.scope == Scope::ActiveDown {
                self.note(format!(
                    "{active} is active and not down, so nothing is left out"
                ));
            }
            return Ok(false);
        };
        if self.scope == Scope::Compared {
            return Err(format!(
                "the active color {active} is not healthy, so nothing could be compared or rolled back to: {trouble}. If a fix must be shipped nevertheless, `deployer deploy --active-down` leaves out what compares; if {idle} is healthy, `deployer switch {idle}` sends traffic there at once"
            ));
        }
        // The standby answers every client. Replacing it would be an outage.
        if self.ports.flags.is_fit(idle).await.map_err(message)?
            && self.check_health(idle).await.is_ok()
        {
            return Err(format!(
                "{active} is down, and {idle} answers every client in its place: run `deployer switch {idle}` first, then this deployment goes to {active}"
            ));
        }
        Ok(true)
    }

    /// Sends a health check, and with [`Scope::ActiveDown`] also a test request.
    async fn check_health(&self, color: Color) -> Result<(), PortError> {
        let target = Target::Server(color);
        let probe = &self.ports.probe;
        probe.health(target).await?;
        match self.examples.golden.first() {
            Some(example) if self.scope == Scope::ActiveDown => {
                probe.predict(target, example).await.map(drop)
            }
            _ => Ok(()),
        }
    }
}
