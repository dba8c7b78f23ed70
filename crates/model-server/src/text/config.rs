use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use super::Problem;

/// How many tokens a model takes when its `config.json` does not say.
const DEFAULT_MAX_TOKENS: usize = 512;

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
        "the keys of id2label are {present}; expected \"0\", \"1\" and so on without a gap, and at least two labels unless they are independent of each other"
    )]
    Labels {
        /// The keys that are there.
        present: String,
    },
    /// Another kind of model: its logits are no scores of labels.
    #[error(
        "problem_type is {0:?}; expected single_label_classification or multi_label_classification"
    )]
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
    /// What its logits mean.
    pub(crate) problem: Problem,
    /// The number of the token that fills up short texts.
    pub(crate) padding: i64,
    /// The most tokens that one text may have, special tokens included; at least 1.
    pub(crate) max_tokens: usize,
}

/// The names of the classes, in the order of the model's logits; at least one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Labels(Vec<String>);

#[derive(Deserialize)]
struct ConfigFile {
    id2label: BTreeMap<String, String>,
    problem_type: Option<String>,
    max_position_embeddings: Option<usize>,
    pad_token_id: Option<u32>,
}

impl ModelConfig {
    /// Reads the bytes of a `config.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let file: ConfigFile = serde_json::from_slice(bytes)?;
        let problem = match file.problem_type.as_deref() {
            Some("multi_label_classification") => Problem::MultiLabelClassification,
            // As transformers' own pipeline does: among one label there is nothing to choose.
            None if file.id2label.len() == 1 => Problem::MultiLabelClassification,
            Some("single_label_classification") | None => Problem::SingleLabelClassification,
            Some(other) => return Err(ConfigError::ProblemType(other.to_owned())),
        };
        let max_tokens = file.max_position_embeddings.unwrap_or(DEFAULT_MAX_TOKENS);
        if max_tokens == 0 {
            return Err(ConfigError::NoTokens);
        }
        Ok(Self {
            labels: Labels::from_map(file.id2label, problem)?,
            problem,
            padding: file.pad_token_id.unwrap_or(0).into(),
            max_tokens,
        })
    }
}

impl Labels {
    fn from_map(mut map: BTreeMap<String, String>, problem: Problem) -> Result<Self, ConfigError> {
        let fewest = match problem {
            Problem::SingleLabelClassification => 2,
            Problem::MultiLabelClassification => 1,
        };
        let present = map.keys().cloned().collect::<Vec<_>>().join(", ");
        let names: Option<Vec<String>> = (0..map.len())
            .map(|class| map.remove(&class.to_string()))
            .collect();
        match names {
            Some(names) if names.len() >= fewest => Ok(Self(names)),
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
    fn problem_type_says_what_the_logits_mean() {
        let problem = |more: &str| {
            let text = format!(r#"{{"id2label": {{"0": "a", "1": "b"}}{more}}}"#);
            ModelConfig::parse(text.as_bytes()).map(|it| it.problem)
        };
        assert_eq!(problem("").unwrap(), Problem::SingleLabelClassification);
        assert_eq!(
            problem(r#", "problem_type": "multi_label_classification""#).unwrap(),
            Problem::MultiLabelClassification
        );
        let error = problem(r#", "problem_type": "regression""#).unwrap_err();
        assert!(error.to_string().contains("\"regression\""), "{error}");
    }

    #[test]
    fn a_single_label_is_right_or_wrong_for_itself() {
        let config = ModelConfig::parse(br#"{"id2label": {"0": "spam"}}"#).unwrap();
        assert_eq!(config.problem, Problem::MultiLabelClassification);
        let one_of_one =
            br#"{"id2label": {"0": "a"}, "problem_type": "single_label_classification"}"#;
        assert!(ModelConfig::parse(one_of_one).is_err());
    }

    #[test]
    fn a_file_without_labels_is_refused_with_an_example() {
        let error = ModelConfig::parse(b"{}").unwrap_err();
        assert!(error.to_string().contains("id2label"), "{error}");
    }
}
