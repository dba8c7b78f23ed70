//! Releases that are worse than they look, told by their version. They serve the second release's
//! model through the real server, and misbehave at the edge.

use std::time::Duration;

/// What is wrong with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It says that it is not healthy, for ever.
    NeverHealthy,
    /// It reports another version than the one that was asked for.
    OtherVersion,
    /// It reports another digest than that of its files.
    OtherDigest,
    /// Every tenth request fails.
    EveryTenth,
    /// Of the first [`FIRST`] requests every tenth fails.
    FailsAtFirst,
    /// Every eighth label is the wrong way round.
    EveryEighthWrong,
    /// Every text is negative.
    Biased,
    /// Each prediction takes [`SLOWER`] longer.
    Slow,
    /// One in [`SELDOM`] predictions that the deployer asks for takes [`FAR_SLOWER`] longer.
    SlowAtTimes,
    /// With more than [`CROWD`] requests at a time, one in [`SELDOM`] takes [`VERY_LONG`].
    SlowUnderLoad,
    /// With more than [`CROWD`] requests at a time, every tenth fails.
    BreaksUnderLoad,
    /// With more than [`CROWD`] requests at a time, a few take [`STALL`].
    StallsUnderLoad,
    /// Requests that come through the router fail.
    FailsClients,
    /// After [`ENOUGH`] requests each one fails.
    FailsLater,
    /// After [`MANY`] requests each fourth one that comes through the router fails.
    FailsAtLast,
    /// After [`ENOUGH`] requests it says that it has just been started.
    Restarts,
    /// After [`ENOUGH`] requests the process exits.
    ExitsLater,
    /// After [`ENOUGH`] requests nothing is answered, health checks included.
    HangsLater,
    /// After [`ENOUGH`] requests no prediction is answered, while health checks still are.
    StopsPredicting,
    /// Each prediction that comes through the router takes [`FAR_SLOWER`] longer.
    SlowForClients,
    /// Every text that comes through the router is negative.
    BiasedForClients,
    /// From SIGUSR1 until the next one each prediction takes [`NEVER_IN_TIME`] longer.
    SlowWhenTold,
}

/// So many requests through the router that the watch has begun; fewer than traffic brings within a
/// few seconds.
pub const ENOUGH: u64 = 600;
/// So many requests through the router that a window of seconds is full of failures long before they
/// count among all that the watch has seen.
pub const MANY: u64 = 4_000;
/// As many requests as the deployer sends first of all.
pub const FIRST: u64 = 50;
/// More often than one in a hundred, and too seldom to be noticed in the middle.
pub const SELDOM: u64 = 30;
/// Longer than an honest release takes under the load of the tests.
pub const VERY_LONG: Duration = Duration::from_secs(8);
/// More requests at a time than any gate sends but that of load.
pub const CROWD: u64 = 100;
/// Longer than an honest release makes somebody wait who asks alone.
pub const SLOWER: Duration = Duration::from_millis(250);
/// Longer than the busiest of test machines makes clients wait for an honest release.
pub const FAR_SLOWER: Duration = Duration::from_millis(800);
/// Longer than the deployer waits for a test request.
pub const NEVER_IN_TIME: Duration = Duration::from_secs(3);
/// Not so long that it fails by itself.
pub const STALL: Duration = Duration::from_secs(2);

/// The version of each fault.
pub const NAMES: [&str; 22] = [
    "never-healthy",
    "other-version",
    "other-digest",
    "every-tenth",
    "fails-at-first",
    "every-eighth-wrong",
    "slow-at-times",
    "slow-under-load",
    "fails-at-last",
    "restarts",
    "biased",
    "slow",
    "breaks-under-load",
    "stalls-under-load",
    "fails-clients",
    "fails-later",
    "exits-later",
    "hangs-later",
    "stops-predicting",
    "slow-for-clients",
    "biased-for-clients",
    "slow-when-told",
];

impl Fault {
    /// The fault of a version; none for an honest release.
    #[must_use]
    pub fn of(version: &str) -> Option<Self> {
        Some(match version {
            "never-healthy" => Self::NeverHealthy,
            "other-version" => Self::OtherVersion,
            "other-digest" => Self::OtherDigest,
            "every-tenth" => Self::EveryTenth,
            "fails-at-first" => Self::FailsAtFirst,
            "every-eighth-wrong" => Self::EveryEighthWrong,
            "slow-at-times" => Self::SlowAtTimes,
            "slow-under-load" => Self::SlowUnderLoad,
            "fails-at-last" => Self::FailsAtLast,
            "restarts" => Self::Restarts,
            "biased" => Self::Biased,
            "slow" => Self::Slow,
            "breaks-under-load" => Self::BreaksUnderLoad,
            "stalls-under-load" => Self::StallsUnderLoad,
            "fails-clients" => Self::FailsClients,
            "fails-later" => Self::FailsLater,
            "exits-later" => Self::ExitsLater,
            "hangs-later" => Self::HangsLater,
            "stops-predicting" => Self::StopsPredicting,
            "slow-for-clients" => Self::SlowForClients,
            "biased-for-clients" => Self::BiasedForClients,
            "slow-when-told" => Self::SlowWhenTold,
            _ => return None,
        })
    }
}
