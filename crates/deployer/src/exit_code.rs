//! The deployer's exit codes. Scripts and CI jobs depend on them.

use crate::deployment::phase::Phase;

/// Promoted, or the command succeeded.
pub const FINE: u8 = 0;
/// An unexpected error.
pub const UNEXPECTED: u8 = 1;
/// Wrong arguments, settings, or environment; nothing was changed.
pub const USAGE: u8 = 2;
/// Refused: traffic never moved.
pub const REFUSED: u8 = 10;
/// Rolled back: the candidate received traffic and lost it again.
pub const ROLLED_BACK: u8 = 20;
/// Halted: a person is needed; the message says what to do.
pub const HALTED: u8 = 30;
/// Another deployer holds the lock; try again when it is done (`EX_TEMPFAIL` of sysexits.h).
pub const BUSY: u8 = 75;

/// The exit code of a deployment that stopped in `phase`.
#[must_use]
pub fn of(phase: Phase) -> u8 {
    match phase {
        Phase::Promoted => FINE,
        Phase::Refused => REFUSED,
        Phase::RolledBack => ROLLED_BACK,
        Phase::Halted => HALTED,
        Phase::Planned | Phase::Starting | Phase::Healthy | Phase::Validated | Phase::Switched => {
            UNEXPECTED
        }
    }
}
