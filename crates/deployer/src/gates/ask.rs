//! The same inputs to both releases.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use super::Candidate;
use crate::{
    examples::Example,
    ports::{Answer, Target, WorldError},
};

/// What both releases answer to an input.
pub(super) struct Pair<'a> {
    pub(super) example: &'a Example,
    pub(super) active: Result<Answer, WorldError>,
    pub(super) candidate: Result<Answer, WorldError>,
}

impl Pair<'_> {
    /// The label that the active release gave; none when it gave none.
    pub(super) fn active_label(&self) -> Option<&str> {
        label(&self.active)
    }

    /// The label that the candidate gave; none when it gave none.
    pub(super) fn candidate_label(&self) -> Option<&str> {
        label(&self.candidate)
    }
}

/// What went wrong at the candidate, and how often.
pub(super) fn errors_of(pairs: &[Pair<'_>]) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for error in pairs
        .iter()
        .filter_map(|pair| pair.candidate.as_ref().err())
    {
        *errors.entry(error.to_string()).or_default() += 1;
    }
    errors
}

fn label(answer: &Result<Answer, WorldError>) -> Option<&str> {
    answer.as_ref().ok()?.label.as_deref()
}

/// Asks both, a few inputs at a time, in the order of the inputs.
pub(super) async fn ask_both<'a>(
    candidate: &Candidate<'_>,
    examples: &[&'a Example],
) -> Vec<Pair<'a>> {
    const AT_A_TIME: usize = 4;

    let mut pairs = Vec::with_capacity(examples.len());
    for few in examples.chunks(AT_A_TIME) {
        pairs.extend(join_all(few.iter().map(|example| ask(candidate, example))).await);
    }
    pairs
}

async fn ask<'a>(candidate: &Candidate<'_>, example: &'a Example) -> Pair<'a> {
    let probe = &candidate.world.probe;
    let active = async {
        if candidate.active_down {
            return Err(WorldError("the active color is down".to_owned()));
        }
        let target = Target::Server(candidate.color.other());
        probe.predict(target, example).await
    };
    let (active, candidate) = tokio::join!(
        active,
        probe.predict(Target::Server(candidate.color), example),
    );
    Pair {
        example,
        active,
        candidate,
    }
}
