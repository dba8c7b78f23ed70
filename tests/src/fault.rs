//! Releases that are worse than they look, told by their version. They serve the second release's
//! model through the real server, and misbehave at the edge.

/// What is wrong with a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It says that it is not healthy, for ever.
    NeverHealthy,
    /// It reports another version than the one that was asked for.
    OtherVersion,
    /// Every tenth request fails.
    EveryTenth,
    /// After [`ENOUGH`] requests each one fails.
    FailsLater,
    /// After [`ENOUGH`] requests the process exits.
    ExitsLater,
    /// After [`ENOUGH`] requests nothing is answered, health checks included.
    HangsLater,
    /// After [`ENOUGH`] requests no prediction is answered, while health checks still are.
    StopsPredicting,
}

/// More requests than the deployer sends before the switch, and enough behind it that the watch
/// has begun; fewer than traffic brings within a few seconds.
pub const ENOUGH: u64 = 600;

/// The version of each fault.
pub const NAMES: [&str; 7] = [
    "never-healthy",
    "other-version",
    "every-tenth",
    "fails-later",
    "exits-later",
    "hangs-later",
    "stops-predicting",
];

impl Fault {
    /// The fault of a version; none for an honest release.
    #[must_use]
    pub fn of(version: &str) -> Option<Self> {
        Some(match version {
            "never-healthy" => Self::NeverHealthy,
            "other-version" => Self::OtherVersion,
            "every-tenth" => Self::EveryTenth,
            "fails-later" => Self::FailsLater,
            "exits-later" => Self::ExitsLater,
            "hangs-later" => Self::HangsLater,
            "stops-predicting" => Self::StopsPredicting,
            _ => return None,
        })
    }
}
