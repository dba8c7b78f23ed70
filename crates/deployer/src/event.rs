//! What happens during a command. Work emits events; reporters consume them.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    color::Color,
    phase::Phase,
    plan::Plan,
    traffic::Request,
    verdict::{Tally, Verdict},
};

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A deployment begins.
    Planned {
        /// What it is going to do.
        plan: &'a Plan,
    },
    /// A deployment is brought to its end whose deployer died.
    Resumed {
        /// What it was going to do.
        plan: &'a Plan,
        /// Where it was last seen.
        phase: Phase,
        /// When that was.
        since: Timestamp,
    },
    /// Something worth a line that is neither a phase nor a verdict.
    Note {
        /// One sentence.
        text: String,
    },
    /// The candidate is not healthy yet.
    Waiting {
        /// Tries so far.
        tried: u32,
        /// Tries in all.
        of: u32,
        /// What the last one came to.
        reason: String,
    },
    /// A gate begins.
    Asking {
        /// The gate's name.
        gate: &'static str,
    },
    /// A gate was judged.
    Judged {
        /// The gate's name.
        gate: &'static str,
        /// What it concluded.
        verdict: &'a Verdict,
    },
    /// All traffic moved.
    Moved {
        /// From this color.
        from: Color,
        /// To this one.
        to: Color,
    },
    /// Client requests were read from the router's log.
    Logged {
        /// In the order in which they were done.
        requests: &'a [Request],
    },
    /// One look at the candidate under real traffic.
    Watched {
        /// Since the switch.
        elapsed: Duration,
        /// How long it is watched in all.
        of: Duration,
        /// Client requests that wanted the candidate, since the switch.
        tally: Tally,
        /// Why the last check failed, if it did.
        trouble: Option<&'a str>,
    },
    /// A phase was reached and is in the journal.
    Reached {
        /// The phase.
        phase: Phase,
        /// Why, when it is an end.
        reason: Option<&'a str>,
    },
}

/// Consumes events; must not fail, and decides nothing.
pub trait Reporter: Send + Sync {
    /// Takes note of one event.
    fn report(&self, event: &Event<'_>);
}
