//! Requests to a model server.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::config::optional::empty_is_none;

/// How a model server is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeSettings {
    /// Path of the health check.
    pub health_path: String,
    /// Path of predictions.
    pub predict_path: String,
    /// JSON pointer to the label in an answer.
    pub label: String,
    /// JSON pointer to the confidence in an answer.
    pub confidence: String,
    /// JSONL file of test inputs.
    pub inputs: PathBuf,
    /// File whose first line that is no comment is sent as the API key; none for servers that want none.
    #[serde(deserialize_with = "empty_is_none")]
    pub api_key_file: Option<PathBuf>,
    /// What takes longer has failed.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
}
