//! Whether a server has the time to finish its requests when it is stopped. Pure, except for [`contradictions_of`].

use std::time::Duration;

use humantime::format_duration;

use crate::{
    color::Color,
    config::Settings,
    ports::{Ports, Target},
    release::TimeLimits,
};

/// A time limit that is too short, and what to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Contradiction {
    /// What contradicts what.
    pub(crate) text: String,
    /// What to do.
    pub(crate) advice: &'static str,
}

/// Compares the time after which a color is killed with the time for which it serves after a stop signal, and with the
/// longest answer.
pub(crate) fn contradictions(
    color: Color,
    killed_after: Duration,
    server: Option<TimeLimits>,
    longest: Duration,
) -> Vec<Contradiction> {
    let killed = format!(
        "is killed after {} (stop_grace_period in the Compose file, or fleet.process.stop_timeout)",
        format_duration(killed_after)
    );
    let grace = server.map(|server| server.grace_seconds);
    let grace = grace.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let mut found = Vec::new();
    if let Some(grace) = grace.filter(|grace| *grace >= killed_after) {
        found.push(Contradiction {
            text: format!(
                "{color} serves for {} after a stop signal (GRACE_SECONDS), but {killed}: its responses are cut off",
                format_duration(grace)
            ),
            advice: "raise the time to stop (stop_grace_period of the service, or fleet.process.stop_timeout), or lower GRACE_SECONDS",
        });
    }
    if killed_after <= longest {
        found.push(Contradiction {
            text: format!(
                "an answer may take {} (drain.longest), but {color} {killed}: a stop cuts such answers off",
                format_duration(longest)
            ),
            advice: "raise the time to stop above drain.longest, and let the server drain as long (docs/servers.md)",
        });
    }
    found
}

/// The same for a running color; nothing if the fleet cannot tell when it is killed.
pub(crate) async fn contradictions_of(
    settings: &Settings,
    ports: &Ports,
    color: Color,
) -> Vec<Contradiction> {
    let Some(killed_after) = ports.fleet.stop_timeout(color).await else {
        return Vec::new();
    };
    let health = ports.probe.health(Target::Server(color)).await;
    let server = health.ok().and_then(|health| health.time_limits);
    contradictions(color, killed_after, server, settings.drain.longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(grace_seconds: f64) -> TimeLimits {
        TimeLimits {
            request_timeout_seconds: 30.0,
            idle_timeout_seconds: 75.0,
            grace_seconds,
        }
    }

    #[test]
    fn server_that_is_killed_while_it_drains_is_a_contradiction() {
        let texts = |killed_after, server: Option<TimeLimits>, longest| -> Vec<String> {
            let seconds = Duration::from_secs;
            let found =
                contradictions(Color::Blue, seconds(killed_after), server, seconds(longest));
            found.into_iter().map(|found| found.text).collect()
        };
        assert!(texts(10, Some(limits(5.0)), 0).is_empty());
        assert!(texts(10, None, 9).is_empty());
        let grace = texts(10, Some(limits(10.0)), 0);
        assert!(
            grace[0].starts_with("blue serves for 10s after a stop signal"),
            "{grace:?}"
        );
        let longest = texts(10, Some(limits(5.0)), 120);
        assert_eq!(longest.len(), 1);
        assert!(
            longest[0]
                .starts_with("an answer may take 2m (drain.longest), but blue is killed after 10s")
        );
        // A reported time that is no time.
        assert!(texts(10, Some(limits(f64::NAN)), 0).is_empty());
    }
}
