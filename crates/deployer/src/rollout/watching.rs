//! The watch over a candidate that has the traffic: what is seen of it, look by look.

use std::{fmt::Write as _, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Rollout, rounded, words};
use crate::{
    config::OnInconclusive,
    event::Event,
    ports::{Service, State, Target},
    probes::Probes,
    traffic::{FirstTry, Request, Seen},
    verdict::{Finding, Tally, Verdict},
    watch::{Look, Watch},
};

/// Requests through the router, at a time and in one look: a judgment must not be a load.
const AT_A_TIME: usize = 8;
const IN_ONE_LOOK: usize = 64;

impl Rollout<'_> {
    /// Watches until there is a verdict. What was logged before `since` (seconds since 1970), if that is
    /// given, is not this candidate's doing.
    pub(super) async fn watch(&self, before: Seen, since: Option<f64>) -> Result<String, String> {
        let settings = &self.settings.watch;
        let mut watch = Watch::new(settings.clone(), before);
        let began = Instant::now();
        let mut ticks = interval(settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut inputs = self.examples.golden.iter().cycle();
        let mut probes = Probes::default();
        let mut first_try = FirstTry::default();
        let mut missing = 0;
        let mut noted = false;
        loop {
            ticks.tick().await;
            let target = probes.target(self.plan.idle);
            let asked = inputs
                .by_ref()
                .take(missing.min(IN_ONE_LOOK))
                .map(|example| self.world.probe.predict(target, example));
            let asked = stream::iter(asked).buffer_unordered(AT_A_TIME);
            let asked = asked.map(|answer| answer.is_ok()).collect::<Tally>();
            let (mut look, answers) = tokio::join!(self.look(), asked);
            look.at = began.elapsed();
            look.own.add(answers);
            let count = usize::try_from(answers.requests).unwrap_or_default();
            if probes.answered(look.at, count) {
                look.traffic.tally.add(answers);
            }
            if let Err(error) = self.read_into(&mut look, &mut probes, &mut first_try, since)
                && !std::mem::replace(&mut noted, true)
            {
                self.reporter.report(&Event::Note { text: error });
            }
            watch.see(look);
            // A quiet service is judged too: what clients do not send is sent by probes.
            missing = watch.missing_requests();
            let elapsed = began.elapsed();
            let verdict = watch.verdict(elapsed);
            self.reporter.report(&Event::Watched {
                elapsed,
                of: watch.until(),
                tally: watch.tally(),
                trouble: watch.trouble(),
            });
            if let Some(mut verdict) = verdict {
                if probes.sent() > 0 {
                    let _ = write!(
                        verdict.summary,
                        "; probes were added to the traffic: {}",
                        probes.sent()
                    );
                }
                verdict.warnings.extend(self.strange_lines());
                return self.conclude(&verdict, elapsed);
            }
        }
    }

    /// Adds what the router logged.
    fn read_into(
        &self,
        look: &mut Look,
        probes: &mut Probes,
        first_try: &mut FirstTry,
        since: Option<f64>,
    ) -> Result<(), String> {
        match self.read_log() {
            Some(Ok(mut requests)) => {
                requests.retain(|request| since.is_none_or(|since| request.at >= since));
                if !probes.find_in(&requests, look.at) {
                    look.unread.push(
                        "the router's log does not show the deployer's own requests".to_owned(),
                    );
                }
                first_try.leave_out_earlier(self.plan.idle, &mut requests);
                look.traffic.add(&Seen::of(self.plan.idle, &requests));
                Ok(())
            }
            // No news, good or bad: probes and counters go on.
            Some(Err(error)) => {
                probes.lose_sight();
                look.unread.push(error.clone());
                Err(error)
            }
            None => {
                probes.lose_sight();
                Ok(())
            }
        }
    }

    /// Says so when the log holds what is no request.
    fn strange_lines(&self) -> Option<String> {
        let strange = self.world.traffic.as_ref()?.strange_lines();
        (strange > 0).then(|| {
            format!(
                "lines of the router's log that were not understood, and left out: {strange} (nginx/ and the deployer belong together)"
            )
        })
    }

    fn conclude(&self, verdict: &Verdict, elapsed: Duration) -> Result<String, String> {
        self.reporter.report(&Event::Judged {
            gate: "watch",
            verdict,
        });
        let promoted = verdict.lets_through()
            || verdict.finding == Finding::Inconclusive
                && self.settings.watch.on_inconclusive == OnInconclusive::Promote;
        let (seconds, summary) = (rounded(elapsed), &verdict.summary);
        if promoted {
            Ok(format!("watched for {seconds}: {summary}"))
        } else {
            Err(format!("watch, after {seconds}: {summary}"))
        }
    }

    /// Looks at the candidate itself; what clients saw of it is read from the log.
    async fn look(&self) -> Look {
        let idle = self.plan.idle;
        let target = Target::Server(idle);
        let probe = &self.world.probe;
        let example = self.examples.golden.first();
        let request = async {
            match example {
                Some(example) => Some(probe.predict(target, example).await),
                None => None,
            }
        };
        let (health, request) = tokio::join!(probe.health(target), request);
        let mut look = Look {
            health: Some(health.map_err(words)),
            own: request.iter().map(Result::is_ok).collect::<Tally>(),
            request: request.map(|answer| answer.map(drop).map_err(words)),
            ..Look::default()
        };
        if let Some(Err(_)) = look.health {
            match self.stopped().await {
                Ok(stopped) => look.stopped = stopped,
                Err(problem) => look
                    .unread
                    .push(format!("whether it still runs: {problem}")),
            }
        }
        look
    }

    /// How the candidate stopped, if it did. Not waited for longer than for the candidate itself: an engine
    /// that hangs must not keep traffic on a release that fails.
    async fn stopped(&self) -> Result<Option<String>, String> {
        let bound = self.settings.probe.timeout;
        let asked = self.world.fleet.inspect(Service::Server(self.plan.idle));
        let (state, _) = timeout(bound, asked)
            .await
            .map_err(|_| format!("no answer within {}", humantime::format_duration(bound)))?
            .map_err(words)?;
        Ok(match state {
            State::Stopped(how) => Some(how),
            State::Running | State::Unmanaged => None,
        })
    }

    /// What was logged since the last time; none where there is no log to read.
    pub(super) fn read_log(&self) -> Option<Result<Vec<Request>, String>> {
        let requests = self.world.traffic.as_ref()?.new_requests();
        if let Ok(requests) = &requests {
            self.reporter.report(&Event::Logged { requests });
        }
        Some(requests.map_err(words))
    }

    /// What clients saw of the active release lately.
    pub(super) fn before(&self) -> Seen {
        let requests = self.read_log().and_then(Result::ok).unwrap_or_default();
        Seen::lately(self.plan.active, &requests)
    }

    /// The same with what was logged while the candidate was proven, where it was too little. Not in any
    /// case, since the gates are a load that clients feel.
    pub(super) fn before_and_since(&self, before: Seen) -> Seen {
        let traffic = self.world.traffic.as_ref();
        let again = traffic.filter(|_| !before.suffices_to_compare());
        match again.map(|traffic| traffic.lately()) {
            Some(Ok(requests)) => Seen::lately(self.plan.active, &requests),
            _ => before,
        }
    }

    /// What clients saw of the active release before traffic moved at `switched` (seconds since 1970),
    /// when all that is left of it stands in the log.
    pub(super) fn before_the_switch_at(&self, switched: f64) -> Seen {
        /// Longer than any request that was under way when traffic moved.
        const INTERLEAVED: f64 = 30.0;

        let Some(Ok(mut requests)) = self.world.traffic.as_ref().map(|it| it.lately()) else {
            return Seen::default();
        };
        let active = self.plan.active;
        requests.retain(|request| {
            request.at < switched
                && (request.wanted == active || request.at < switched - INTERLEAVED)
        });
        Seen::lately(active, &requests)
    }
}
