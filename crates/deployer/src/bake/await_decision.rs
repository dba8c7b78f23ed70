//! Observes a candidate that has no traffic yet while it waits for approval.

use std::collections::HashMap;

use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::{
    bake::{
        judge::liveness::Liveness,
        observer::{Observer, bound},
    },
    deployment::{approval::Question, rollout::Rollout},
    state::operator_request::OperatorRequest,
};

impl Rollout<'_> {
    /// Checks the candidate until a person approves it. Fails if the candidate stops or fails `bake.failures` checks in a
    /// row, or if the question expires.
    pub(crate) async fn watch_until_decided(
        &self,
        question: &Question,
    ) -> Result<OperatorRequest, String> {
        let settings = &self.settings.bake;
        let mut ticks = interval(settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (candidate, inputs) = (self.plan.idle, &self.examples.golden);
        let mut observer =
            Observer::new(self.ports, self.settings, candidate, inputs, HashMap::new());
        let mut liveness = Liveness::new(settings.failures);
        loop {
            tokio::select! {
                biased;
                request = self.decisions.decided() => return Ok(request),
                _ = ticks.tick() => observer.begin_check(),
                () = observer.until_stopped() => {}
            }
            self.check_expiry(question)?;
            // What is not answered yet is carried over.
            let _ = timeout(bound(self.settings), observer.until_complete()).await;
            observer.record_ended();
            // So that the switch does not have to read all of it at once.
            drop(self.read_log().await);
            liveness.record(&observer.end_observation());
            self.decisions
                .set_failing(liveness.last_failure().map(str::to_owned));
            if let Some(verdict) = liveness.failure() {
                self.decisions.close();
                return Err(format!("while it waited for approval: {}", verdict.summary));
            }
        }
    }
}
