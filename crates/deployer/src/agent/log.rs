//! The agent's log: a line a change of state, on standard error.

use std::{fmt, io::Write as _};

/// Writes a line with the time.
pub(super) fn note(text: impl fmt::Display) {
    let now = jiff::Timestamp::now();
    // A closed pipe must not end the agent.
    let _ = writeln!(std::io::stderr(), "{now:.3} deployer agent: {text}");
}
