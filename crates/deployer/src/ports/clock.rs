//! The time of day.

use jiff::Timestamp;

/// Tells the time where it decides something or is written down. Waiting is tokio's business.
pub trait Clock: Send + Sync {
    /// The time now, in UTC.
    fn now(&self) -> Timestamp;
}
