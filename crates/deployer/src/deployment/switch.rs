//! The switch: traffic moves to the candidate, and clients confirm it.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::{
    deployment::{
        plan::Plan,
        rollout::{Rollout, message, seconds},
    },
    event::Event,
    gates,
    ports::{OnSilentRouter, Service, ServiceState, Target},
    release::Release,
};

impl Rollout<'_> {
    /// Moves all traffic, and confirms it by a request on the clients' path. Returns the time of the switch
    /// (seconds since 1970) if the log could not be read before it.
    pub(super) async fn switch(&self) -> Result<Option<f64>, String> {
        let Plan {
            active,
            idle,
            ref release,
            ..
        } = *self.plan;
        let now = self.ports.router.active().await.map_err(message)?;
        if now != active {
            return Err(format!(
                "a person moved traffic to {now} during the deployment"
            ));
        }
        // Another process on the candidate's port could have passed the gates in its place.
        let inspection = self.ports.fleet.inspect(Service::Server(idle));
        if let Ok(Ok((ServiceState::Stopped(how) | ServiceState::Paused(how), _))) =
            timeout(self.settings.probe.timeout, inspection).await
        {
            return Err(format!("the candidate stopped: {how}"));
        }
        // Log lines from before the switch are not evidence about this candidate.
        let unread = self.read_log().await.and_then(Result::err);
        let since = unread.as_ref().map(|_| seconds(self.ports.clock.now()));
        if let Some(error) = unread {
            self.note(error.to_string());
        }
        let switched = self.ports.router.switch_to(idle, OnSilentRouter::Refuse);
        let switched = switched.await.map_err(message)?;
        self.reporter.report(&Event::TrafficMoved {
            from: switched.displaced,
            to: idle,
            unconfirmed: &switched.unconfirmed,
        });
        self.confirm_clients_reach(release).await?;
        Ok(since)
    }

    /// Confirms that the candidate answers clients. A single failed request does not undo the switch.
    ///
    /// nginx passes over a color for up to two seconds after it failed as the active one, and then tries it
    /// with one request while the standby answers the others. A request right after the switch may therefore
    /// reach the standby.
    async fn confirm_clients_reach(&self, release: &Release) -> Result<(), String> {
        const PATIENCE: Duration = Duration::from_secs(3);
        const PAUSE: Duration = Duration::from_millis(100);

        let deadline = Instant::now() + PATIENCE;
        loop {
            let problem = match self.ports.probe.health(Target::Public).await {
                Ok(served) => {
                    let verdict = gates::compare(release, &served);
                    if verdict.lets_through() {
                        return Ok(());
                    }
                    let summary = verdict.summary;
                    format!("after the switch clients are answered by another release: {summary}")
                }
                Err(error) => format!("after the switch clients are not answered: {error}"),
            };
            if Instant::now() >= deadline {
                return Err(problem);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
