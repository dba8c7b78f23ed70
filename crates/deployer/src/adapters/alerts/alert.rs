//! An alert, and its kind.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::color::Color;

/// The kind of an alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A color or the router went down.
    Down,
    /// A color or the router is up again.
    Up,
    /// Traffic moved away from a color that is down, or could not move.
    Failover,
    /// The router itself fails requests.
    RouterErrors,
    /// The router itself fails no requests any more.
    RouterErrorsEnded,
    /// A command was interrupted, and no other command has completed it.
    Interrupted,
    /// A color serves, or its directory holds, something else than was promoted there.
    ReleaseChanged,
    /// A test.
    Test,
}

/// An alert. docs/events.md describes what a webhook receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// The kind.
    pub kind: Kind,
    /// When it happened, which may be long before it is delivered.
    pub at: Timestamp,
    /// The color; `None` if it concerns none.
    pub color: Option<Color>,
    /// One sentence.
    pub text: String,
}
