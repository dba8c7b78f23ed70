//! The machine: disk space and clock.

use std::path::Path;

use jiff::{Timestamp, fmt::rfc2822};

use crate::{adapters, config::Settings, deployment::preflight, doctor::finding::Finding};

const CLOCK: &str = "clock";

pub(crate) fn disk(directory: &Path, needed: u64) -> Finding {
    const TOPIC: &str = "disk";

    match preflight::room(directory, needed) {
        Ok(()) => {
            let free = preflight::free_megabytes(directory).unwrap_or_default();
            Finding::fine(TOPIC, format!("{free} MB free for {}", directory.display()))
        }
        Err(error) => Finding::wrong(
            TOPIC,
            error,
            "free some space (`docker system df` shows what Docker holds), or correct the path and who may write there",
        ),
    }
}

/// Whether the router's clock agrees with this one. The log is read by time.
pub(crate) async fn clock(settings: &Settings) -> Finding {
    match adapters::date_of(&settings.router.control, settings.probe.timeout).await {
        Ok(date) => judge_clock(&date, Timestamp::now()),
        Err(error) => Finding::wrong(CLOCK, error, "`deployer up` starts the router"),
    }
}

/// Compares the router's date with this machine's time `now`.
fn judge_clock(date: &str, now: Timestamp) -> Finding {
    const TOLERABLE_SECONDS: i64 = 2;

    let there = match rfc2822::parse(date) {
        Ok(there) => there.timestamp(),
        Err(error) => {
            return Finding::wrong(
                CLOCK,
                format!("the router's date {date:?} is not understood: {error}"),
                "is router.control an nginx?",
            );
        }
    };
    let apart = there.as_second() - now.as_second();
    if apart.abs() <= TOLERABLE_SECONDS {
        return Finding::fine(CLOCK, "the router's and this one agree");
    }
    Finding::wrong(
        CLOCK,
        format!("the router's is {apart} s ahead of this one"),
        "set both by NTP: the deployer separates requests before and after a switch by their time",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_finding_tolerates_two_seconds() {
        let now: Timestamp = "2026-01-01T12:00:10Z".parse().unwrap();
        let text = |date| judge_clock(date, now).text;
        for date in [
            "Thu, 01 Jan 2026 12:00:08 GMT",
            "Thu, 01 Jan 2026 12:00:12 GMT",
        ] {
            assert_eq!(text(date), "the router's and this one agree");
        }
        assert_eq!(
            text("Thu, 01 Jan 2026 12:00:13 GMT"),
            "the router's is 3 s ahead of this one"
        );
        assert_eq!(
            text("Thu, 01 Jan 2026 12:00:07 GMT"),
            "the router's is -3 s ahead of this one"
        );
        assert!(text("yesterday").starts_with("the router's date \"yesterday\" is not understood"));
    }
}
