//! Test inputs for gates.

mod request_body;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;

use crate::{
    config::{ProbeSettings, Settings},
    examples::request_body::request_body,
};

/// One request body, and its correct label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// The body of the request.
    pub body: String,
    /// The correct label; `None` if it is unknown.
    pub expect: Option<String>,
}

/// Why the test inputs could not be read.
#[derive(Debug, Error)]
pub enum ExamplesError {
    /// The file cannot be read.
    #[error("cannot read the test inputs ({key}) {path}: {source}")]
    Unreadable {
        /// The setting that names the file.
        key: &'static str,
        /// The file.
        path: String,
        /// What the operating system reported.
        source: std::io::Error,
    },
    /// A line is not a test input.
    #[error("{path}, line {line}: expected an object with an \"input\": {source}")]
    Wrong {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line is not an input for the kind of request.
    #[error("{path}, line {line}: {problem}")]
    NoRequest {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it, and what is needed.
        problem: String,
    },
    /// The file holds no test input.
    #[error("{path} holds no test inputs")]
    Empty {
        /// The file.
        path: String,
    },
}

/// The test inputs of each gate.
#[derive(Debug, Clone, Default)]
pub struct Examples {
    /// For `smoke`, and, with their labels, for `golden`.
    pub golden: Arc<[Example]>,
    /// For `agreement`.
    pub agreement: Arc<[Example]>,
    /// For `load`.
    pub load: Arc<[Example]>,
}

impl Examples {
    /// Reads all files that the settings name. A gate without its own file uses `probe.inputs`.
    pub fn read(settings: &Settings) -> Result<Self, ExamplesError> {
        let golden: Arc<[Example]> =
            read("probe.inputs", &settings.probe.inputs, &settings.probe)?.into();
        let own = |key, path: &Option<PathBuf>| match path {
            Some(path) => Ok(read(key, path, &settings.probe)?.into()),
            None => Ok(Arc::clone(&golden)),
        };
        Ok(Self {
            agreement: own("agreement.inputs", &settings.agreement.inputs)?,
            load: own("load.inputs", &settings.load.inputs)?,
            golden,
        })
    }
}

/// Reads a JSONL file. Each line is an object with `input` and, optionally, `expect`.
fn read(
    key: &'static str,
    path: &Path,
    probe: &ProbeSettings,
) -> Result<Vec<Example>, ExamplesError> {
    #[derive(Deserialize)]
    struct Line {
        input: Value,
        expect: Option<String>,
    }

    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|source| ExamplesError::Unreadable {
        key,
        path: name.clone(),
        source,
    })?;
    let examples: Vec<Example> = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(index, line)| match serde_json::from_str::<Line>(line) {
            Ok(Line { input, expect }) => match request_body(probe, input) {
                Ok(body) => Ok(Example {
                    body: body.to_string(),
                    expect,
                }),
                Err(problem) => Err(ExamplesError::NoRequest {
                    path: name.clone(),
                    line: index + 1,
                    problem,
                }),
            },
            Err(source) => Err(ExamplesError::Wrong {
                path: name.clone(),
                line: index + 1,
                source,
            }),
        })
        .collect::<Result<_, _>>()?;
    if examples.is_empty() {
        return Err(ExamplesError::Empty { path: name });
    }
    Ok(examples)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> ProbeSettings {
        crate::config::load(None, &[]).unwrap().probe
    }

    fn read_text(text: &str) -> Result<Vec<Example>, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("inputs.jsonl");
        fs::write(&path, text).unwrap();
        read("probe.inputs", &path, &probe()).map_err(|error| error.to_string())
    }

    #[test]
    fn test_input_becomes_body_and_label() {
        let examples = read_text(
            "{\"input\":{\"text\":\"good\"},\"expect\":\"positive\"}\n\n{\"input\":[1]}\n",
        )
        .unwrap();
        assert_eq!(
            examples,
            [
                Example {
                    body: "{\"text\":\"good\"}".to_owned(),
                    expect: Some("positive".to_owned()),
                },
                Example {
                    body: "[1]".to_owned(),
                    expect: None,
                },
            ]
        );
    }

    /// The tests of `model-server` write the same file.
    #[test]
    fn inputs_that_the_model_server_captured_are_a_golden_set() {
        let path = "../model-server/tests/data/captured.jsonl";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
        let examples = read("probe.inputs", &path, &probe()).unwrap();
        let labels: Vec<_> = examples.iter().map(|it| it.expect.as_deref()).collect();
        assert_eq!(labels, [Some("positive"), Some("negative"), None]);
        assert_eq!(examples[0].body, "{\"text\":\"a \\\"fine\\\"\\nfilm\"}");
    }

    #[test]
    fn invalid_test_input_error_names_line() {
        let error = read_text("{\"input\":1}\n{\"text\":\"good\"}\n").unwrap_err();
        assert!(error.contains("inputs.jsonl, line 2"), "{error}");
        assert!(error.contains("input"), "{error}");
    }

    #[test]
    fn empty_test_inputs_are_an_error() {
        assert!(
            read_text("\n")
                .unwrap_err()
                .ends_with("holds no test inputs")
        );
    }

    #[test]
    fn missing_test_inputs_error_names_setting() {
        let error = read("load.inputs", Path::new("no/such.jsonl"), &probe())
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot read the test inputs (load.inputs) no/such.jsonl"),
            "{error}"
        );
    }
}
