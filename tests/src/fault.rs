//! The faults of test releases. A release's version selects its fault.
//!
//! `faulty-server` runs the real model server with the model of v2, and changes its requests and responses.

use std::time::Duration;

use clap::ValueEnum;

/// A fault of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// The health check answers 503 forever.
    NeverHealthy,
    /// `/health` reports another version than the requested one.
    OtherVersion,
    /// Responses report a wrong digest.
    OtherDigest,
    /// Every tenth prediction fails.
    FailsEveryTenth,
    /// Every tenth of the first [`FIRST_REQUESTS`] predictions fails.
    FailsEarly,
    /// Every eighth prediction has the opposite label.
    EveryEighthWrong,
    /// Each prediction has the label `negative`.
    Biased,
    /// Each prediction takes [`SLOW_DELAY`] longer.
    Slow,
    /// No fault: each prediction takes [`LARGE_MODEL_DELAY`] longer, as a larger model would.
    LargeModel,
    /// Each prediction takes three times as long as [`Self::LargeModel`].
    ThreeTimesAsSlow,
    /// No fault: the first [`WARMING_REQUESTS`] predictions take [`WARMING_STEP`] longer for each one that is left of them.
    WarmsUp,
    /// Each [`RARE_INTERVAL`]th prediction takes [`VERY_SLOW_DELAY`] longer, unless it came through the router.
    RarelySlow,
    /// With more than [`CONCURRENCY_THRESHOLD`] requests in flight, each [`RARE_INTERVAL`]th takes [`LOAD_DELAY`]
    /// longer.
    SlowUnderLoad,
    /// With more than [`CONCURRENCY_THRESHOLD`] requests in flight, every tenth fails.
    BreaksUnderLoad,
    /// With more than [`CONCURRENCY_THRESHOLD`] requests in flight, one in 500 takes [`STALL_DELAY`] longer.
    StallsUnderLoad,
    /// All predictions through the router fail.
    FailsClients,
    /// Every second prediction through the router is refused with 422.
    RefusesClients,
    /// Every second prediction through the router is refused with 401.
    LocksClientsOut,
    /// Every second prediction through the router is answered with an empty body.
    AnswersNothing,
    /// After [`REQUESTS_BEFORE_FAULT`] predictions through the router, every prediction fails.
    FailsLater,
    /// After [`REQUESTS_BEFORE_LATE_FAULT`] predictions through the router, every fourth one fails.
    PartlyFailsLate,
    /// After [`REQUESTS_BEFORE_FAULT`] predictions through the router, `/health` reports an uptime of zero.
    Restarts,
    /// After [`REQUESTS_BEFORE_FAULT`] predictions through the router, the process exits.
    ExitsLater,
    /// After [`REQUESTS_BEFORE_FAULT`] predictions through the router, no request gets a response, health checks
    /// included.
    HangsLater,
    /// After [`REQUESTS_BEFORE_FAULT`] predictions through the router, only predictions get no response.
    StopsPredicting,
    /// Each prediction through the router takes [`VERY_SLOW_DELAY`] longer.
    SlowForClients,
    /// Each prediction through the router has the label `negative`.
    BiasedForClients,
    /// Each prediction through the router whose body is longer than [`LONG_BODY`] takes [`LONG_TEXT_DELAY`] longer.
    SlowForLongTexts,
    /// One in ten predictions through the router, chosen at random, gets no response.
    HangsForSome,
    /// Every fifth prediction through the router ends in the middle of a body of known length.
    CutsByLength,
    /// Every fifth prediction through the router ends in the middle of a chunked body.
    CutsChunks,
    /// Every second prediction through the router is answered with the same body, which has no label.
    AnswersConstant,
    /// Every tenth prediction through the router fails with 504, which the router neither repeats nor counts.
    TimesOutForSome,
    /// Every tenth answer to a prediction through the router comes from another release, by its headers.
    MixesReleases,
    /// SIGUSR1 turns this fault on and off: each prediction takes [`TIMEOUT_DELAY`] longer.
    SlowAfterSignal,
}

/// Predictions through the router before a fault begins. The bake has begun by then.
pub const REQUESTS_BEFORE_FAULT: u64 = 600;
/// Predictions through the router before a late fault begins. So many good requests precede the failures that a
/// window of seconds reaches the error limit long before the whole bake does.
pub const REQUESTS_BEFORE_LATE_FAULT: u64 = 4_000;
/// The predictions with which a server warms up.
pub const WARMING_REQUESTS: u32 = 60;
/// With this, the first prediction takes more than half a second.
pub const WARMING_STEP: Duration = Duration::from_millis(10);
/// The number of requests that the gate `smoke` sends.
pub const FIRST_REQUESTS: u64 = 50;
/// One request in this many is slow: enough to change p99, and too few to change the median.
pub const RARE_INTERVAL: u64 = 30;
/// Longer than the p99 limit of the gate `load` in these tests.
pub const LOAD_DELAY: Duration = Duration::from_secs(8);
/// A number of requests in flight that only the gate `load` exceeds.
pub const CONCURRENCY_THRESHOLD: u64 = 100;
/// The shipped models are so fast that a difference of three times is negligible.
pub const LARGE_MODEL_DELAY: Duration = Duration::from_millis(20);
/// Longer than a good release takes for a request without load.
pub const SLOW_DELAY: Duration = Duration::from_millis(250);
/// Longer than a good release takes on the busiest test machine.
pub const VERY_SLOW_DELAY: Duration = Duration::from_millis(800);
/// Longer than any of the deployer's test inputs, in bytes.
pub const LONG_BODY: u64 = 1_000;
/// Longer than clients with a timeout of one second wait.
pub const LONG_TEXT_DELAY: Duration = Duration::from_millis(1_500);
/// The size of a large answer: its beginning has reached the client before the answer breaks off.
pub const LARGE_ANSWER: usize = 200 * 1024;
/// A request with this header is answered with the status in it, by every release that `faulty-server` serves. Both
/// colors answer it alike.
pub const STATUS_HEADER: &str = "x-test-status";
/// A request with this header ends the process of every release that `faulty-server` serves, like a request that crashes
/// an engine.
pub const POISON_HEADER: &str = "x-test-poison";
/// The answer to a request with this header is [`LARGE_ANSWER`] bytes longer, and pauses in the middle, by every
/// release that `faulty-server` serves.
pub const LARGE_HEADER: &str = "x-test-large";
/// Longer than the monitor's timeout for a test request.
pub const TIMEOUT_DELAY: Duration = Duration::from_secs(3);
/// Short enough that no request fails by a timeout.
pub const STALL_DELAY: Duration = Duration::from_secs(2);

impl Fault {
    /// Returns the fault that a version selects; `None` for a good release.
    #[must_use]
    pub fn from_version(version: &str) -> Option<Self> {
        Self::from_str(version, false).ok()
    }
}

/// Returns the versions that select a fault: the names of the variants in kebab case.
pub fn versions() -> impl Iterator<Item = String> {
    let faults = Fault::value_variants().iter();
    let values = faults.filter_map(Fault::to_possible_value);
    values.map(|value| value.get_name().to_owned())
}
