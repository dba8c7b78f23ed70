use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use thiserror::Error;

use crate::task::{padding::Padding, python_json::to_strict_json};

/// The token limit of a model whose `config.json` has none.
const DEFAULT_MAX_TOKENS: usize = 512;

/// The number of labels if neither `config.json` nor the graph declares it.
const DEFAULT_LABELS: usize = 2;

/// Why a `config.json` cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// It is not JSON, or a value has the wrong type.
    #[error(
        "{0}; expected a JSON object, such as {{\"id2label\": {{\"0\": \"negative\", \"1\": \"positive\"}}}}"
    )]
    Json(#[from] serde_json::Error),
    /// The keys of `id2label` are not 0, 1, 2, and so on.
    #[error(
        "id2label has the keys {present}; expected \"0\", \"1\", and so on without a gap, and at least two labels (one for multi_label_classification)"
    )]
    Labels {
        /// The keys in the file.
        present: String,
    },
    /// A label has no name.
    #[error("the label of {class:?} in id2label is {given}; expected a string")]
    LabelName {
        /// The key of the label.
        class: String,
        /// The value in the file.
        given: Value,
    },
    /// No task has this name.
    #[error("problem_type is {given:?}; expected {expected}")]
    ProblemType {
        /// The value in `config.json`.
        given: String,
        /// The known values.
        expected: String,
    },
    /// The token limit leaves no room for text.
    #[error(
        "max_position_embeddings is {0}, which leaves no room for text; expected the token limit of the model"
    )]
    NoTokens(usize),
}

/// The keys of `config.json` that the server needs. Others are ignored.
#[derive(Debug)]
pub(crate) struct ModelConfig {
    labels: Option<Labels>,
    /// What the model does with texts.
    pub(super) problem_type: Option<String>,
    /// How shorter texts are padded.
    pub(crate) padding: Padding,
    /// The most tokens of one text, special tokens included; at least 1.
    pub(crate) max_tokens: usize,
}

/// The label of each logit, in their order; at least one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Labels(Vec<String>);

#[derive(Deserialize)]
struct ConfigFile {
    id2label: Option<BTreeMap<String, Value>>,
    problem_type: Option<String>,
    model_type: Option<String>,
    #[serde(default, deserialize_with = "whole_number")]
    max_position_embeddings: Option<i64>,
    #[serde(default, deserialize_with = "whole_number")]
    n_positions: Option<i64>,
    #[serde(default, deserialize_with = "padding_token")]
    pad_token_id: PaddingToken,
}

/// Reads a number that some exporters write as a float.
fn whole_number<'de, D: Deserializer<'de>>(value: D) -> Result<Option<i64>, D::Error> {
    let number = Option::<f64>::deserialize(value)?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "neither a limit nor an ID has a fraction"
    )]
    Ok(number.map(|number| number as i64))
}

/// The value of `pad_token_id`.
#[derive(Default)]
pub(super) enum PaddingToken {
    /// The ID.
    Number(i64),
    /// `null`: there is no padding token.
    Null,
    /// The key is missing.
    #[default]
    Unset,
}

fn padding_token<'de, D: Deserializer<'de>>(value: D) -> Result<PaddingToken, D::Error> {
    Ok(whole_number(value)?.map_or(PaddingToken::Null, PaddingToken::Number))
}

impl ModelConfig {
    /// Parses a `config.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let file: ConfigFile = serde_json::from_slice(&to_strict_json(bytes))?;
        let model_type = file.model_type.unwrap_or_default();
        let padding = Padding::of(&model_type, &file.pad_token_id);
        let first_position = padding.first_position;
        // A negative number means that there is no limit.
        let positions = file.max_position_embeddings.or(file.n_positions);
        let positions = positions.and_then(|number| usize::try_from(number).ok());
        let positions = positions.unwrap_or(DEFAULT_MAX_TOKENS + first_position);
        if positions <= first_position {
            return Err(ConfigError::NoTokens(positions));
        }
        Ok(Self {
            labels: file.id2label.map(Labels::from_map).transpose()?,
            problem_type: file.problem_type,
            padding,
            max_tokens: positions - first_position,
        })
    }

    /// Returns the labels. Without names, there are as many as `logits`, if the graph declares their number, and they
    /// are called `LABEL_0` and so on.
    pub(super) fn labels(&self, logits: Option<usize>) -> Labels {
        let numbered = || {
            let numbers = 0..logits.unwrap_or(DEFAULT_LABELS);
            Labels(numbers.map(|class| format!("LABEL_{class}")).collect())
        };
        self.labels.clone().unwrap_or_else(numbered)
    }
}

impl Labels {
    fn from_map(values: BTreeMap<String, Value>) -> Result<Self, ConfigError> {
        let present: Vec<_> = values.keys().cloned().collect();
        let present = present.join(", ");
        let labels = values.into_iter().map(|(class, value)| match value {
            Value::String(name) => Ok((class, name)),
            // Training scripts keep the classes of their data as labels.
            Value::Number(_) | Value::Bool(_) => Ok((class, value.to_string())),
            given => Err(ConfigError::LabelName { class, given }),
        });
        let mut map: BTreeMap<String, String> = labels.collect::<Result<_, _>>()?;
        let names: Option<Vec<String>> = (0..map.len())
            .map(|class| map.remove(&class.to_string()))
            .collect();
        match names {
            Some(names) if !names.is_empty() => Ok(Self(names)),
            _ => Err(ConfigError::Labels { present }),
        }
    }

    /// Fails if there are less than `fewest` labels.
    pub(super) fn at_least(self, fewest: usize) -> Result<Self, ConfigError> {
        if self.len() >= fewest {
            return Ok(self);
        }
        let present: Vec<String> = (0..self.len()).map(|class| class.to_string()).collect();
        Err(ConfigError::Labels {
            present: present.join(", "),
        })
    }

    /// The number of labels.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The name of a label.
    pub(crate) fn get(&self, class: usize) -> Option<&str> {
        self.0.get(class).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_of(text: &str, logits: Option<usize>) -> Labels {
        ModelConfig::parse(text.as_bytes()).unwrap().labels(logits)
    }

    fn limit(more: &str) -> Result<usize, ConfigError> {
        let text = format!(r#"{{"id2label": {{"0": "a", "1": "b"}}{more}}}"#);
        ModelConfig::parse(text.as_bytes()).map(|it| it.max_tokens)
    }

    #[test]
    fn labels_are_ordered_by_number() {
        let ids: Vec<String> = (0..12)
            .map(|id| format!("\"{id}\": \"class {id}\""))
            .collect();
        let text = format!("{{\"id2label\": {{{}}}}}", ids.join(","));
        let labels = labels_of(&text, Some(12));
        assert_eq!(labels.len(), 12);
        assert_eq!(labels.get(2), Some("class 2"));
        assert_eq!(labels.get(10), Some("class 10"));
        assert_eq!(labels.get(12), None);
    }

    #[test]
    fn unnamed_labels_are_numbered() {
        for (logits, count) in [(Some(3), 3), (Some(1), 1), (None, 2)] {
            let labels = labels_of("{}", logits);
            assert_eq!(labels.len(), count);
            assert_eq!(labels.get(0), Some("LABEL_0"));
        }
    }

    #[test]
    fn token_limit_defaults_to_512() {
        for (more, expected) in [
            ("", 512),
            (r#", "max_position_embeddings": 128"#, 128),
            (r#", "max_position_embeddings": -1"#, 512),
            (r#", "n_positions": 1024, "model_type": "gpt2""#, 1024),
        ] {
            assert_eq!(limit(more).unwrap(), expected, "{more}");
        }
        assert!(limit(r#", "max_position_embeddings": 0"#).is_err());
    }

    #[test]
    fn reserved_positions_lower_the_token_limit() {
        for (more, expected) in [
            (
                r#""roberta", "max_position_embeddings": 514, "pad_token_id": 1"#,
                512,
            ),
            (r#""xlm-roberta", "max_position_embeddings": 514"#, 512),
            (
                r#""mpnet", "max_position_embeddings": 514, "pad_token_id": 1"#,
                512,
            ),
            (
                r#""roberta", "max_position_embeddings": 40, "pad_token_id": 7"#,
                32,
            ),
            (r#""roberta""#, 512),
            (
                r#""bert", "max_position_embeddings": 512, "pad_token_id": 1"#,
                512,
            ),
        ] {
            let seen = limit(&format!(r#", "model_type": {more}"#)).unwrap();
            assert_eq!(seen, expected, "{more}");
        }
        let more = r#", "model_type": "roberta", "max_position_embeddings": 2"#;
        assert!(limit(more).unwrap_err().to_string().contains("no room"));
    }

    #[test]
    fn padding_token_may_be_missing_null_or_a_float() {
        let token = |text: &str| ModelConfig::parse(text.as_bytes()).unwrap().padding.token;
        assert_eq!(token("{}"), None);
        assert_eq!(token(r#"{"model_type": "roberta"}"#), Some(1));
        assert_eq!(token(r#"{"pad_token_id": 7}"#), Some(7));
        assert_eq!(token(r#"{"pad_token_id": 1.0}"#), Some(1));
        assert_eq!(
            token(r#"{"model_type": "bert", "pad_token_id": null}"#),
            None
        );
    }

    #[test]
    fn labels_with_a_gap_are_refused() {
        let error = ModelConfig::parse(br#"{"id2label": {"0": "a", "2": "b"}}"#).unwrap_err();
        assert!(error.to_string().contains("0, 2"), "{error}");
    }

    #[test]
    fn numbers_that_json_lacks_are_read_as_null() {
        let text = r#"{"a": NaN, "b": [Infinity,-Infinity], "max_position_embeddings": NaN,
            "id2label": {"0": "NaN", "1": "\\\"Infinity, -Infinity"}}"#;
        let config = ModelConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.max_tokens, 512);
        let labels = config.labels(Some(2));
        assert_eq!(labels.get(0), Some("NaN"));
        assert_eq!(labels.get(1), Some("\\\"Infinity, -Infinity"));
        for bad in [r#"{"a": NaN1}"#, r#"{"a": +Infinity}"#, r#"{"a": nan}"#] {
            assert!(ModelConfig::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_may_be_numbers_or_booleans() {
        let labels = labels_of(r#"{"id2label": {"0": 1, "1": -0.5, "2": true}}"#, None);
        let names: Vec<_> = (0..3).map(|class| labels.get(class).unwrap()).collect();
        assert_eq!(names, ["1", "-0.5", "true"]);
    }

    #[test]
    fn label_without_a_name_is_refused_with_its_key() {
        for bad in ["null", "NaN", "[]", "{}"] {
            let text = format!(r#"{{"id2label": {{"0": "a", "1": {bad}}}}}"#);
            let message = ModelConfig::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(
                message.starts_with("the label of \"1\" in id2label"),
                "{message}"
            );
        }
    }

    #[test]
    fn unset_keys_may_be_null() {
        let text = r#"{"id2label": null, "problem_type": null, "model_type": null,
            "max_position_embeddings": null, "n_positions": null}"#;
        let config = ModelConfig::parse(text.as_bytes()).unwrap();
        assert_eq!((config.max_tokens, config.labels(Some(3)).len()), (512, 3));
        assert_eq!(config.problem_type, None);
    }

    #[test]
    fn token_limit_may_be_a_float() {
        assert_eq!(limit(r#", "max_position_embeddings": 128.0"#).unwrap(), 128);
        assert_eq!(limit(r#", "n_positions": 1e3"#).unwrap(), 1000);
        let error = limit(r#", "max_position_embeddings": "128""#).unwrap_err();
        assert!(error.to_string().contains("string \"128\""), "{error}");
    }

    #[test]
    fn byte_order_mark_is_skipped() {
        let config = ModelConfig::parse(b"\xef\xbb\xbf{\"n_positions\": 9}").unwrap();
        assert_eq!(config.max_tokens, 9);
    }

    #[test]
    fn config_that_is_not_an_object_is_refused() {
        let error = ModelConfig::parse(b"[]").unwrap_err();
        assert!(error.to_string().contains("id2label"), "{error}");
    }
}
