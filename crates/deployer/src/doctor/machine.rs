//! The machine: disk space and clock.

use std::path::Path;

use jiff::{Timestamp, fmt::rfc2822};

use crate::{adapters, config::Settings, deployment::preflight, doctor::finding::Finding};

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
    const TOLERABLE_SECONDS: i64 = 2;

    match adapters::date_of(&settings.router.control, settings.probe.timeout).await {
        Ok(date) => match rfc2822::parse(&date) {
            Ok(there) => {
                let apart = there.timestamp().as_second() - Timestamp::now().as_second();
                if apart.abs() <= TOLERABLE_SECONDS {
                    return Finding::fine("clock", "the router's and this one agree");
                }
                Finding::wrong(
                    "clock",
                    format!("the router's is {apart} s ahead of this one"),
                    "set both by NTP: what clients saw before and after a switch is told apart by time",
                )
            }
            Err(error) => Finding::wrong(
                "clock",
                format!("the router's date {date:?} is not understood: {error}"),
                "is router.control an nginx?",
            ),
        },
        Err(error) => Finding::wrong("clock", error, "`deployer up` starts the router"),
    }
}
