//! Sends the same inputs to both releases.

use std::collections::BTreeMap;

use futures_util::future::join_all;

use crate::{
    examples::Example,
    gates::gate::Candidate,
    ports::{PortError, Prediction, Target},
};

/// An input, and the answers of both releases to it.
pub(super) struct Pair<'a> {
    pub(super) example: &'a Example,
    pub(super) active: Result<Prediction, PortError>,
    pub(super) candidate: Result<Prediction, PortError>,
}

impl Pair<'_> {
    /// The active release's label; `None` if it gave none.
    pub(super) fn active_label(&self) -> Option<&str> {
        label(&self.active)
    }

    /// The candidate's label; `None` if it gave none.
    pub(super) fn candidate_label(&self) -> Option<&str> {
        label(&self.candidate)
    }
}

/// The candidate's errors by kind.
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

fn label(answer: &Result<Prediction, PortError>) -> Option<&str> {
    answer.as_ref().ok()?.label.as_deref()
}

/// Sends the inputs to both releases, a few at a time. Keeps their order.
pub(super) async fn predict_pairs<'a>(
    candidate: &Candidate<'_>,
    examples: &[&'a Example],
) -> Vec<Pair<'a>> {
    const AT_A_TIME: usize = 4;

    let mut pairs = Vec::with_capacity(examples.len());
    for few in examples.chunks(AT_A_TIME) {
        pairs.extend(
            join_all(
                few.iter()
                    .map(|example| predict_on_both(candidate, example)),
            )
            .await,
        );
    }
    pairs
}

async fn predict_on_both<'a>(candidate: &Candidate<'_>, example: &'a Example) -> Pair<'a> {
    let probe = &candidate.ports.probe;
    let active = async {
        if candidate.nothing_to_compare {
            return Err(PortError::Unreachable(
                "the active color is down or not to be compared with".to_owned(),
            ));
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
