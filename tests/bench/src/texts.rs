//! What the model servers are asked: texts of real words, the same in every run.

use std::fs;

use end_to_end::repository;
use serde_json::Value;

/// How many different texts there are of each kind.
const COUNT: usize = 512;

/// How long the texts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mix {
    /// Twenty words each.
    Twenty,
    /// From 3 to 100 words, all lengths equally often.
    Mixed,
}

impl Mix {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Twenty => "20 words",
            Self::Mixed => "3–100 words",
        }
    }

    /// The texts, in an order without a pattern.
    pub(crate) fn texts(self) -> anyhow::Result<Vec<String>> {
        let words = words()?;
        let mut chance = Chance(20_260_101);
        let text = |_| {
            let length = match self {
                Self::Twenty => 20,
                Self::Mixed => 3 + chance.below(98),
            };
            let start = chance.below(words.len() - length);
            words[start..start + length].join(" ")
        };
        Ok((0..COUNT).map(text).collect())
    }
}

/// The words of the golden texts.
fn words() -> anyhow::Result<Vec<String>> {
    let golden = fs::read_to_string(repository().join("models/sentiment/golden.jsonl"))?;
    let mut words = Vec::new();
    for line in golden.lines() {
        let golden: Value = serde_json::from_str(line)?;
        let text = golden["input"]["text"].as_str().unwrap_or_default();
        words.extend(text.split_whitespace().map(str::to_owned));
    }
    Ok(words)
}

/// Numbers without a pattern, the same in every run (a linear congruential generator).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_the_words_that_they_should_have() {
        let lengths = |mix: Mix| -> Vec<usize> {
            let texts = mix.texts().unwrap();
            texts.iter().map(|text| text.split(' ').count()).collect()
        };
        assert!(lengths(Mix::Twenty).iter().all(|length| *length == 20));
        let mixed = lengths(Mix::Mixed);
        assert!(mixed.iter().all(|length| (3..=100).contains(length)));
        assert!(mixed.iter().min() < Some(&10) && mixed.iter().max() > Some(&90));
    }
}
