//! What an agent learns of the truth, and how that moves its fence.

use std::time::Duration;

use super::{Pending, QuestionNumber, RouterState};
use crate::cluster::truth::Truth;

impl RouterState {
    pub(super) fn knows_newer(&self, truth: &Truth) -> bool {
        self.known
            .as_ref()
            .is_some_and(|known| known.generation > truth.generation)
    }

    pub(super) fn pending_for(&mut self, generation: u64, now: Duration) -> &mut Pending {
        let new = Pending {
            generation,
            fence: None,
            closed: false,
            heard_of: now,
        };
        let pending = self.pending.get_or_insert(new);
        if pending.generation < generation {
            *pending = new;
        }
        pending
    }

    /// Takes a truth that is not older than the known one.
    pub(super) fn learn(&mut self, truth: &Truth, now: Duration) {
        let newer = self
            .known
            .as_ref()
            .is_none_or(|known| known.generation < truth.generation);
        if newer {
            self.decided(truth, now);
        }
        // A stale read of the same generation may lack the change that the agent already knows.
        if newer || truth.prepared.is_some() {
            self.known = Some(truth.clone());
        }
        if let Some(prepared) = &truth.prepared {
            self.pending_for(prepared.generation, now);
        }
    }

    /// Ends the pending change, and keeps its deadline until nginx obeys `truth`.
    pub(super) fn decided(&mut self, truth: &Truth, now: Duration) {
        let decided = self
            .pending
            .take_if(|pending| pending.generation <= truth.generation);
        let in_step = self.behind_until.is_none();
        if let Some((generation, flags)) = &mut self.obeyed
            && in_step
            && *flags == truth.flags
        {
            *generation = truth.generation;
            return;
        }
        let limit = decided.and_then(|pending| self.fence_end(pending));
        let limit = limit.unwrap_or(now + self.timing.fence);
        self.behind_until = Some(
            self.behind_until
                .map_or(limit, |earlier| earlier.min(limit)),
        );
    }

    pub(super) fn fence_end(&self, pending: Pending) -> Option<Duration> {
        if pending.closed {
            return Some(Duration::ZERO);
        }
        let asked = pending.fence?;
        // The release of a later change says nothing of this one, except that it was decided.
        (pending.generation != self.released).then(|| asked + self.timing.fence)
    }

    /// Extends the fence by an answer to `question`: `generation` was undecided when it was asked, or later.
    pub(super) fn renew(&mut self, generation: u64, question: QuestionNumber) {
        let asked = self
            .questions
            .iter()
            .find(|(number, _)| *number == question);
        if question >= self.void_before
            && let Some((_, asked)) = asked
            && let Some(pending) = &mut self.pending
            && pending.generation == generation
            && let Some(fence) = &mut pending.fence
        {
            *fence = (*fence).max(*asked);
        }
    }
}
