use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

/// How many tokens a model takes when its `config.json` does not say.
const DEFAULT_MAX_TOKENS: usize = 512;

/// The only problem that this server answers today.
const SINGLE_LABEL: &str = "single_label_classification";

/// What is wrong with a `config.json`.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not JSON, or a key with a value of the wrong type.
    #[error(
        "{0}; expected a JSON object with id2label, such as {{\"id2label\": {{\"0\": \"negative\", \"1\": \"positive\"}}}}"
    )]
    Json(#[from] serde_json::Error),
    /// The keys of `id2label` are not 0, 1, 2 and so on.
    #[error(
        "the keys of id2label are {present}; expected \"0\", \"1\" and so on without a gap, at least two of them"
    )]
    Labels {
        /// The keys that are there.
        present: String,
    },
    /// Another kind of model: its logits mean something else than softmax would make of them.
    #[error("problem_type is {0:?}; this server answers {SINGLE_LABEL} only")]
    ProblemType(String),
    /// A limit that leaves no room for text.
    #[error("max_position_embeddings is 0; expected the number of tokens that the model takes")]
    NoTokens,
}

/// What the server needs of a release's `config.json`. Other keys are ignored.
#[derive(Debug, PartialEq)]
pub(crate) struct ModelConfig {
    /// The names of the model's classes.
    pub(crate) labels: Labels,
    /// The most tokens that one text may have, special tokens included; at least 1.
    pub(crate) max_tokens: usize,
}

/// The names of the classes, in the order of the model's logits; at least two.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Labels(Vec<String>);

#[derive(Deserialize)]
struct ConfigFile {
    id2label: BTreeMap<String, String>,
    problem_type: Option<String>,
    max_position_embeddings: Option<usize>,
}

impl ModelConfig {
    /// Reads the bytes of a `config.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let file: ConfigFile = serde_json::from_slice(bytes)?;
        if let Some(problem) = file.problem_type.filter(|problem| problem != SINGLE_LABEL) {
            return Err(ConfigError::ProblemType(problem));
        }
        let max_tokens = file.max_position_embeddings.unwrap_or(DEFAULT_MAX_TOKENS);
        if max_tokens == 0 {
            return Err(ConfigError::NoTokens);
        }
        Ok(Self {
            labels: Labels::from_map(file.id2label)?,
            max_tokens,
        })
    }
}

impl Labels {
    fn from_map(mut map: BTreeMap<String, String>) -> Result<Self, ConfigError> {
        let present = map.keys().cloned().collect::<Vec<_>>().join(", ");
        let names: Option<Vec<String>> = (0..map.len())
            .map(|class| map.remove(&class.to_string()))
            .collect();
        match names {
            Some(names) if names.len() >= 2 => Ok(Self(names)),
            _ => Err(ConfigError::Labels { present }),
        }
    }

    /// How many classes there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The name of a class, if the model has it.
    pub(crate) fn get(&self, class: usize) -> Option<&str> {
        self.0.get(class).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_their_numbers_and_not_their_spelling() {
        let ids: Vec<String> = (0..12)
            .map(|id| format!("\"{id}\": \"class {id}\""))
            .collect();
        let text = format!("{{\"id2label\": {{{}}}}}", ids.join(","));
        let config = ModelConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.labels.len(), 12);
        assert_eq!(config.labels.get(2), Some("class 2"));
        assert_eq!(config.labels.get(10), Some("class 10"));
        assert_eq!(config.labels.get(12), None);
    }

    #[test]
    fn limit_is_512_tokens_unless_the_file_says_otherwise() {
        let labels = r#""id2label": {"0": "a", "1": "b"}"#;
        let limit = |more: &str| {
            ModelConfig::parse(format!("{{{labels}{more}}}").as_bytes()).map(|it| it.max_tokens)
        };
        assert_eq!(limit("").unwrap(), 512);
        assert_eq!(limit(r#", "max_position_embeddings": 128"#).unwrap(), 128);
        assert!(limit(r#", "max_position_embeddings": 0"#).is_err());
    }

    #[test]
    fn labels_with_a_gap_are_refused_by_naming_what_is_there() {
        let error = ModelConfig::parse(br#"{"id2label": {"0": "a", "2": "b"}}"#).unwrap_err();
        assert!(error.to_string().contains("0, 2"), "{error}");
    }

    #[test]
    fn a_model_of_several_labels_at_once_is_refused() {
        let error = ModelConfig::parse(
            br#"{"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"}"#,
        )
        .unwrap_err();
        assert!(error.to_string().contains("multi_label"), "{error}");
    }

    #[test]
    fn a_file_without_labels_is_refused_with_an_example() {
        let error = ModelConfig::parse(b"{}").unwrap_err();
        assert!(error.to_string().contains("id2label"), "{error}");
    }
}
