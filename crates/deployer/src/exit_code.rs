//! The deployer's exit codes. They are part of its interface: scripts and CI jobs read them.

use crate::phase::Phase;

/// Promoted, or the command did what it was asked.
pub const FINE: u8 = 0;
/// A bug, or an error that nobody foresaw.
pub const UNEXPECTED: u8 = 1;
/// Wrong arguments, settings or environment; nothing was touched.
pub const USAGE: u8 = 2;
/// Refused: traffic never moved.
pub const REFUSED: u8 = 10;
/// Rolled back: the candidate had traffic and lost it again.
pub const ROLLED_BACK: u8 = 20;
/// Halted: a person is needed; the message says what is where.
pub const HALTED: u8 = 30;
/// Another deployment holds the lock; try again when it is done (`EX_TEMPFAIL` of sysexits.h).
pub const BUSY: u8 = 75;

/// The exit code of a deployment that ended, or stopped, in `phase`.
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
