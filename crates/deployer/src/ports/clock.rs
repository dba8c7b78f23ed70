//! The time of day.

use jiff::Timestamp;

/// Tells the time where a decision, the journal, or the history depends on it.
pub trait Clock: Send + Sync {
    /// The time now, in UTC.
    fn now(&self) -> Timestamp;
}
