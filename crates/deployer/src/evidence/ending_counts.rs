//! How many requests ended in each way, for people and programs.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::evidence::request::Ending;

/// Counts of requests by [`Ending::kind`]. A kind without a request has no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EndingCounts(BTreeMap<Cow<'static, str>, u64>);

impl EndingCounts {
    /// The counts of these endings.
    #[cfg(test)]
    pub(crate) fn of_all(endings: &[Ending]) -> Self {
        let mut counts = Self::default();
        for ending in endings {
            counts.count(*ending);
        }
        counts
    }

    /// Counts one request.
    pub fn count(&mut self, ending: Ending) {
        *self.0.entry(Cow::Borrowed(ending.kind())).or_default() += 1;
    }

    /// Adds other counts.
    pub fn add(&mut self, others: &Self) {
        for (kind, count) in &others.0 {
            *self.0.entry(kind.clone()).or_default() += count;
        }
    }

    /// How many requests ended in this kind of way.
    #[must_use]
    pub fn of(&self, kind: &str) -> u64 {
        self.0.get(kind).copied().unwrap_or_default()
    }

    /// The number of requests.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Whether no request was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for EndingCounts {
    /// Lists the kinds that occurred, such as `396 answered, 2 gave up`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let occurred = Ending::KINDS.iter().filter(|kind| self.of(kind) > 0);
        let parts: Vec<String> = occurred
            .map(|kind| format!("{} {}", self.of(kind), kind.replace('_', " ")))
            .collect();
        formatter.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ending_counts_add_up_by_kind() {
        let mut sum =
            EndingCounts::of_all(&[Ending::GaveUp, Ending::Refused(422), Ending::Answered]);
        sum.add(&EndingCounts::of_all(&[
            Ending::Refused(401),
            Ending::ByRouter,
        ]));
        assert_eq!((sum.of("refused"), sum.of("cut"), sum.total()), (2, 0, 5));
        assert_eq!(
            sum.to_string(),
            "1 answered, 2 refused, 1 gave up, 1 by router"
        );
    }

    #[test]
    fn ending_counts_are_an_object_without_zeros() {
        let counted = EndingCounts::of_all(&[Ending::BothFailed]);
        let text = serde_json::to_string(&counted).unwrap();
        assert_eq!(text, r#"{"both_failed":1}"#);
        let read: EndingCounts = serde_json::from_str(&text).unwrap();
        assert_eq!(read, counted);
        assert!(EndingCounts::default().is_empty());
    }
}
