//! What a deployment does now.

use jiff::Timestamp;

/// What runs now; nothing after the end of the deployment.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Progress {
    /// The wait for a healthy candidate.
    pub(crate) health: Option<HealthProgress>,
    /// The gate that has no verdict yet.
    pub(crate) gate: Option<RunningGate>,
    /// The bake that has no verdict yet.
    pub(crate) bake: Option<BakeProgress>,
    /// How many notes were forgotten before the first one.
    pub(crate) forgotten_notes: usize,
}

impl Progress {
    /// Nothing runs any longer.
    pub(crate) fn stop(&mut self) {
        *self = Self {
            forgotten_notes: self.forgotten_notes,
            ..Self::default()
        };
    }
}

/// The last health check of a candidate that is not healthy yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HealthProgress {
    /// Seconds since the first check.
    pub(crate) elapsed: f64,
    /// Seconds without progress.
    pub(crate) without_progress: f64,
    /// It is refused after so many seconds without progress.
    pub(crate) stall: f64,
    /// Why the check failed.
    pub(crate) reason: String,
    /// The last line that the candidate logged, if it logged any.
    pub(crate) last_line: Option<String>,
}

/// A gate that runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RunningGate {
    pub(crate) gate: String,
    pub(crate) since: Timestamp,
}

/// The last observation of the bake.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct BakeProgress {
    /// Seconds since the switch.
    pub(crate) elapsed: f64,
    /// The duration of the bake in seconds, with its extensions so far.
    pub(crate) of: f64,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// Why the last check failed, if it did.
    pub(crate) trouble: Option<String>,
}
