//! Commits, aborts, and what follows from either.

use std::time::Duration;

use super::{
    super::{Action, Message, Outcome, RefusedBecause, settle::Settle},
    FencedChange, Phase,
};
use crate::{
    cluster::{message::Release, truth::Truth},
    ports::Version,
};

impl FencedChange {
    pub(super) fn committed_truth(&self) -> Option<Truth> {
        let (truth, _) = self.base.as_ref()?;
        Some(truth.decide(truth.prepared.as_ref()?.flags))
    }

    pub(super) fn aborted_truth(&self) -> Option<Truth> {
        let (truth, _) = self.base.as_ref()?;
        Some(truth.decide(truth.flags))
    }

    pub(super) fn ending(&mut self, now: Duration) {
        self.phase = Phase::Ending;
        self.store_limit = now + self.limits.store;
    }

    /// Writes the abort on the version of the prepared change.
    pub(super) fn abort(&mut self, because: RefusedBecause, now: Duration) -> Vec<Action> {
        self.because.push(because);
        self.ending(now);
        let (Some(truth), Some((_, version))) = (self.aborted_truth(), self.base.clone()) else {
            return Vec::new();
        };
        self.store(Action::Replace(version, truth))
    }

    /// Learns the outcome from a read, or writes the abort if there is none yet.
    pub(super) fn end_as_read(
        &mut self,
        truth: Truth,
        version: Version,
        now: Duration,
    ) -> Vec<Action> {
        let Some((base, _)) = self.base.clone() else {
            return Vec::new();
        };
        if truth.prepared.is_some() && truth.prepared == base.prepared {
            if let Some(error) = self.store_error.take().filter(|_| self.because.is_empty()) {
                self.because.push(RefusedBecause::Store(error));
            }
            self.base = Some((truth, version));
            let aborted = self.aborted_truth();
            let (Some(aborted), Some((_, version))) = (aborted, self.base.clone()) else {
                return Vec::new();
            };
            return self.store(Action::Replace(version, aborted));
        }
        let target = base.prepared.as_ref().map(|prepared| prepared.flags);
        let same_generation = truth.generation == self.generation();
        if self.commit_unknown && same_generation && target == Some(truth.flags) {
            return self.settle(Some(truth), None, now);
        }
        if self.commit_unknown && !same_generation {
            self.phase = Phase::Finished(Outcome::Overtaken {
                truth: truth.clone(),
            });
            return self.push(&truth);
        }
        let mut because = self.because.clone();
        if because.is_empty() {
            because.push(RefusedBecause::Overruled);
        }
        self.settle(Some(truth), Some(because), now)
    }

    pub(super) fn push(&mut self, truth: &Truth) -> Vec<Action> {
        let names: Vec<String> = self.routers.keys().cloned().collect();
        names
            .iter()
            .map(|name| self.send(name, Message::Apply(truth.clone())))
            .collect()
    }

    /// From here the outcome is known: questions get no answer any more.
    pub(super) fn settle(
        &mut self,
        truth: Option<Truth>,
        refused: Option<Vec<RefusedBecause>>,
        now: Duration,
    ) -> Vec<Action> {
        let Some(truth) = truth else {
            return Vec::new();
        };
        let names = self.routers.keys().cloned();
        let settle = Settle::new(
            truth.clone(),
            names,
            self.next_number + 1,
            now + self.limits.wait(),
        );
        self.phase = Phase::Settling(settle, refused);
        let actions = self.push(&truth);
        self.finish_if_settled(now);
        actions
    }

    pub(super) fn finish_if_settled(&mut self, now: Duration) {
        let Phase::Settling(settle, refused) = &self.phase else {
            return;
        };
        let Some(settled) = settle.finished(now) else {
            return;
        };
        let outcome = match refused {
            Some(because) => Outcome::Refused {
                because: because.clone(),
                left_prepared: false,
            },
            None => Outcome::Done {
                truth: settle.truth().clone(),
                settled,
            },
        };
        self.phase = Phase::Finished(outcome);
    }

    pub(super) fn abort_for_missing(&mut self, now: Duration) -> Vec<Action> {
        let mut missing: Vec<RefusedBecause> = self
            .routers
            .iter()
            .filter(|(_, asked)| !asked.promised)
            .map(|(name, asked)| {
                let why = asked.why.clone().unwrap_or_else(|| "no answer".to_owned());
                RefusedBecause::NoPromise(name.clone(), why)
            })
            .collect();
        let last = missing
            .pop()
            .unwrap_or_else(|| match self.store_error.take() {
                Some(error) if !self.listed => RefusedBecause::Store(error),
                _ => RefusedBecause::NoRouters,
            });
        self.because = missing;
        self.abort(last, now)
    }

    /// Ends the fence without an outcome, so that the store's outage closes no router.
    pub(super) fn give_up(&mut self) -> Vec<Action> {
        let error = self
            .store_error
            .take()
            .unwrap_or_else(|| "no answer".to_owned());
        let generation = self.generation();
        let names: Vec<String> = self.routers.keys().cloned().collect();
        let release = |name: &String| self.send(name, Message::Release(Release { generation }));
        let actions = names.iter().map(release).collect();
        let outcome = if self.commit_unknown {
            Outcome::Unknown { error }
        } else {
            let mut because = std::mem::take(&mut self.because);
            because.push(RefusedBecause::Store(error));
            Outcome::Refused {
                because,
                left_prepared: true,
            }
        };
        self.phase = Phase::Finished(outcome);
        actions
    }
}
