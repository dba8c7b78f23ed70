//! Faulty releases, selected by their version. They serve the second release's model through the real server,
//! and misbehave at its edge.

use std::time::Duration;

/// The fault of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It reports forever that it is not healthy.
    NeverHealthy,
    /// It reports another version than the wanted one.
    OtherVersion,
    /// It reports a wrong digest.
    OtherDigest,
    /// Every tenth request fails.
    EveryTenth,
    /// Every tenth of the first [`FIRST`] requests fails.
    FailsAtFirst,
    /// Every eighth label is inverted.
    EveryEighthWrong,
    /// Every text is negative.
    Biased,
    /// Each prediction takes [`SLOWER`] longer.
    Slow,
    /// One in [`SELDOM`] predictions for the deployer takes [`FAR_SLOWER`] longer.
    SlowAtTimes,
    /// With more than [`CROWD`] concurrent requests, one in [`SELDOM`] takes [`VERY_LONG`].
    SlowUnderLoad,
    /// With more than [`CROWD`] concurrent requests, every tenth fails.
    BreaksUnderLoad,
    /// With more than [`CROWD`] concurrent requests, a few take [`STALL`].
    StallsUnderLoad,
    /// Requests through the router fail.
    FailsClients,
    /// After [`ENOUGH`] requests every request fails.
    FailsLater,
    /// After [`MANY`] requests every fourth one through the router fails.
    FailsAtLast,
    /// After [`ENOUGH`] requests it reports that it has just started.
    Restarts,
    /// After [`ENOUGH`] requests the process exits.
    ExitsLater,
    /// After [`ENOUGH`] requests it answers nothing, health checks included.
    HangsLater,
    /// After [`ENOUGH`] requests it answers health checks only.
    StopsPredicting,
    /// Each prediction through the router takes [`FAR_SLOWER`] longer.
    SlowForClients,
    /// Every text through the router is negative.
    BiasedForClients,
    /// Between two SIGUSR1 each prediction takes [`NEVER_IN_TIME`] longer.
    SlowWhenTold,
}

/// Requests through the router after which the bake has certainly begun.
pub const ENOUGH: u64 = 600;
/// Requests through the router after which failures fill a window of seconds long before they matter over the
/// whole bake.
pub const MANY: u64 = 4_000;
/// As many requests as the deployer sends first.
pub const FIRST: u64 = 50;
/// More often than one in a hundred, and too rare to change the median.
pub const SELDOM: u64 = 30;
/// Longer than a good release takes under the tests' load.
pub const VERY_LONG: Duration = Duration::from_secs(8);
/// More concurrent requests than any gate but `load` sends.
pub const CROWD: u64 = 100;
/// Longer than a good release takes for a single client.
pub const SLOWER: Duration = Duration::from_millis(250);
/// Longer than a good release takes on the busiest test machine.
pub const FAR_SLOWER: Duration = Duration::from_millis(800);
/// Longer than the deployer waits for a test request.
pub const NEVER_IN_TIME: Duration = Duration::from_secs(3);
/// Short enough not to fail by itself.
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
    /// The fault of a version; `None` for a good release.
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
