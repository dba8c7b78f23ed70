use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use crate::task::scores::ProblemType;

/// How many tokens a model takes when its `config.json` does not say.
const DEFAULT_MAX_TOKENS: usize = 512;

/// How many classes a model has when neither its `config.json` nor its graph says.
const DEFAULT_LABELS: usize = 2;

/// What is wrong with a `config.json`.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not JSON, or a key with a value of the wrong type.
    #[error(
        "{0}; expected a JSON object, such as {{\"id2label\": {{\"0\": \"negative\", \"1\": \"positive\"}}}}"
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
    #[error(
        "max_position_embeddings is {0}, which leaves no room for words; expected the number of tokens that the model takes"
    )]
    NoTokens(usize),
}

/// What the server needs of a release's `config.json`. Other keys are ignored.
#[derive(Debug, PartialEq)]
pub(crate) struct ModelConfig {
    labels: Option<BTreeMap<String, String>>,
    problem: Option<ProblemType>,
    /// How short texts are filled up.
    pub(crate) padding: Padding,
    /// The most tokens that one text may have, special tokens included; at least 1.
    pub(crate) max_tokens: usize,
}

/// How short texts are filled up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Padding {
    /// The number of the token that does it; `None` where the model has none, and so reads texts
    /// of one length only.
    pub(crate) token: Option<i64>,
    /// The position of a text's first token. In some models the positions up to that of the filling
    /// token's number stand for no word.
    pub(crate) first_position: usize,
}

/// The names of the classes, in the order of the model's logits; at least one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Labels(Vec<String>);

#[derive(Deserialize)]
struct ConfigFile {
    id2label: Option<BTreeMap<String, String>>,
    problem_type: Option<String>,
    #[serde(default)]
    model_type: String,
    max_position_embeddings: Option<i64>,
    n_positions: Option<i64>,
    #[serde(default)]
    pad_token_id: PaddingToken,
}

/// The token that fills up short texts, as a file tells it.
#[derive(Default, Deserialize)]
#[serde(untagged)]
enum PaddingToken {
    /// There is one.
    Number(i64),
    /// `null`: there is none.
    Missing(()),
    /// The file is silent.
    #[default]
    #[serde(skip)]
    Unsaid,
}

/// Models that count positions from behind the filling token's number on, as `roberta` does: of
/// `max_position_embeddings` so many less are for words.
const POSITIONS_BEHIND_FILLING: [&str; 16] = [
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
    "mluke",
];

impl ModelConfig {
    /// Reads the bytes of a `config.json`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let file: ConfigFile = serde_json::from_slice(bytes)?;
        let problem = match file.problem_type.as_deref() {
            None => None,
            Some("multi_label_classification") => Some(ProblemType::MultiLabelClassification),
            Some("single_label_classification") => Some(ProblemType::SingleLabelClassification),
            Some(other) => return Err(ConfigError::ProblemType(other.to_owned())),
        };
        let behind_filling = POSITIONS_BEHIND_FILLING.contains(&file.model_type.as_str());
        // Where the file is silent, the token has the number that each kind of model gives it.
        let token = match file.pad_token_id {
            PaddingToken::Number(number) => Some(number).filter(|number| *number >= 0),
            PaddingToken::Missing(()) => None,
            PaddingToken::Unsaid => Some(behind_filling.into()),
        };
        let first_position = match token {
            Some(number) if behind_filling => usize::try_from(number).unwrap_or(0) + 1,
            _ => 0,
        };
        // Models without such a limit write a number below 0.
        let positions = file.max_position_embeddings.or(file.n_positions);
        let positions = positions.and_then(|number| usize::try_from(number).ok());
        let positions = positions.unwrap_or(DEFAULT_MAX_TOKENS + first_position);
        if positions <= first_position {
            return Err(ConfigError::NoTokens(positions));
        }
        let config = Self {
            labels: file.id2label,
            problem,
            padding: Padding {
                token,
                first_position,
            },
            max_tokens: positions - first_position,
        };
        // A wrong file is told by its name before the model is read.
        if let Some(labels) = &config.labels {
            config.classes(Some(labels.len()))?;
        }
        Ok(config)
    }

    /// The names of a model's classes, and what its logits mean. `logits` is how many it gives, if
    /// its file tells: a model whose classes have no names calls them `LABEL_0` and so on.
    pub(crate) fn classes(
        &self,
        logits: Option<usize>,
    ) -> Result<(Labels, ProblemType), ConfigError> {
        let numbered = || {
            let numbers = 0..logits.unwrap_or(DEFAULT_LABELS);
            let names = numbers.map(|class| (class.to_string(), format!("LABEL_{class}")));
            names.collect()
        };
        let names = self.labels.clone().unwrap_or_else(numbered);
        let problem = match self.problem {
            Some(problem) => problem,
            // As transformers' own pipeline does: among one label there is nothing to choose.
            None if names.len() == 1 => ProblemType::MultiLabelClassification,
            None => ProblemType::SingleLabelClassification,
        };
        Ok((Labels::from_map(names, problem)?, problem))
    }
}

impl Labels {
    fn from_map(
        mut map: BTreeMap<String, String>,
        problem: ProblemType,
    ) -> Result<Self, ConfigError> {
        let fewest = match problem {
            ProblemType::SingleLabelClassification => 2,
            ProblemType::MultiLabelClassification => 1,
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

    fn labels_of(text: &str, logits: Option<usize>) -> Result<(Labels, ProblemType), ConfigError> {
        ModelConfig::parse(text.as_bytes())?.classes(logits)
    }

    fn limit(more: &str) -> Result<usize, ConfigError> {
        let text = format!(r#"{{"id2label": {{"0": "a", "1": "b"}}{more}}}"#);
        ModelConfig::parse(text.as_bytes()).map(|it| it.max_tokens)
    }

    #[test]
    fn labels_follow_their_numbers_and_not_their_spelling() {
        let ids: Vec<String> = (0..12)
            .map(|id| format!("\"{id}\": \"class {id}\""))
            .collect();
        let text = format!("{{\"id2label\": {{{}}}}}", ids.join(","));
        let (labels, _) = labels_of(&text, Some(12)).unwrap();
        assert_eq!(labels.len(), 12);
        assert_eq!(labels.get(2), Some("class 2"));
        assert_eq!(labels.get(10), Some("class 10"));
        assert_eq!(labels.get(12), None);
    }

    #[test]
    fn classes_without_names_are_numbered_as_wide_as_the_model_is() {
        for (logits, count) in [(Some(3), 3), (Some(1), 1), (None, 2)] {
            let (labels, problem) = labels_of("{}", logits).unwrap();
            assert_eq!(labels.len(), count);
            assert_eq!(labels.get(0), Some("LABEL_0"));
            assert_eq!(problem.is_multi_label(), count == 1);
        }
    }

    #[test]
    fn limit_is_512_tokens_unless_the_file_says_otherwise() {
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
    fn models_that_count_positions_behind_the_filling_token_take_less() {
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
    fn a_filling_token_may_be_missing_or_none() {
        let token = |text: &str| ModelConfig::parse(text.as_bytes()).unwrap().padding.token;
        assert_eq!(token("{}"), Some(0));
        assert_eq!(token(r#"{"model_type": "roberta"}"#), Some(1));
        assert_eq!(token(r#"{"pad_token_id": 7}"#), Some(7));
        assert_eq!(token(r#"{"pad_token_id": null}"#), None);
        assert_eq!(token(r#"{"pad_token_id": -1}"#), None);
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
            labels_of(&text, None).map(|(_, problem)| problem)
        };
        assert_eq!(problem("").unwrap(), ProblemType::SingleLabelClassification);
        assert_eq!(
            problem(r#", "problem_type": "multi_label_classification""#).unwrap(),
            ProblemType::MultiLabelClassification
        );
        let error = problem(r#", "problem_type": "regression""#).unwrap_err();
        assert!(error.to_string().contains("\"regression\""), "{error}");
    }

    #[test]
    fn a_single_label_is_right_or_wrong_for_itself() {
        let (_, problem) = labels_of(r#"{"id2label": {"0": "spam"}}"#, None).unwrap();
        assert_eq!(problem, ProblemType::MultiLabelClassification);
        let one_of_one =
            br#"{"id2label": {"0": "a"}, "problem_type": "single_label_classification"}"#;
        assert!(ModelConfig::parse(one_of_one).is_err());
    }

    #[test]
    fn a_file_that_is_no_object_is_refused_with_an_example() {
        let error = ModelConfig::parse(b"[]").unwrap_err();
        assert!(error.to_string().contains("id2label"), "{error}");
    }
}
