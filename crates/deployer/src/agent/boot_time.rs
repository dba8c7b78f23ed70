//! The clock of promises.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Returns the time since the machine started. It also passes while the machine is suspended, and nobody can set it.
pub(super) fn now() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // The kernel's values are never negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}
