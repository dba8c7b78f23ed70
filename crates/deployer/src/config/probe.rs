//! Requests to a model server.

use std::{fmt, path::PathBuf, time::Duration};

use serde::Deserialize;

use crate::config::optional::{empty_is_no_text, empty_is_none};

/// How a model server is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeSettings {
    /// Path of the health check.
    pub health_path: String,
    /// What a request asks for, and how the answer reads.
    pub kind: ProbeKind,
    /// Path of predictions.
    pub predict_path: String,
    /// JSON pointer to the label in an answer. Only for [`ProbeKind::Json`].
    pub label: String,
    /// JSON pointer to the confidence in an answer. Only for [`ProbeKind::Json`].
    pub confidence: String,
    /// The name of the model in requests to a server that generates text; none for servers that need none.
    #[serde(deserialize_with = "empty_is_no_text")]
    pub model: Option<String>,
    /// The most tokens that a request to a server that generates text asks for.
    pub max_tokens: u32,
    /// JSONL file of test inputs.
    pub inputs: PathBuf,
    /// File whose first line that is no comment is sent as the API key; none for servers that want none.
    #[serde(deserialize_with = "empty_is_none")]
    pub api_key_file: Option<PathBuf>,
    /// What takes longer has failed. A stream has limits of its own.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// When a stream is whole, and how long it may take.
    pub stream: StreamSettings,
}

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// A JSON document, whose label is at `probe.label`.
    Json,
    /// A chat completion, as servers with `OpenAI`'s interface have it.
    Chat,
    /// A completion of a prompt.
    Completion,
    /// A chat completion as a stream of server-sent events.
    Stream,
    /// A completion of a prompt as a stream of server-sent events.
    CompletionStream,
}

impl ProbeKind {
    /// Whether the answer is generated text.
    #[must_use]
    pub fn generates(self) -> bool {
        self != Self::Json
    }

    /// Whether the answer is a stream.
    #[must_use]
    pub fn is_streamed(self) -> bool {
        matches!(self, Self::Stream | Self::CompletionStream)
    }

    /// Whether the request has messages instead of a prompt.
    #[must_use]
    pub fn is_chat(self) -> bool {
        matches!(self, Self::Chat | Self::Stream)
    }
}

/// When a stream is whole, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSettings {
    /// The data of the last event; none if the end of the answer is the end of the stream.
    #[serde(deserialize_with = "empty_is_no_text")]
    pub end_mark: Option<String>,
    /// Whether a whole stream says why it ended.
    pub finish_reason: bool,
    /// The longest time without an event.
    #[serde(with = "humantime_serde")]
    pub max_silence: Duration,
    /// The longest time to the end.
    #[serde(with = "humantime_serde")]
    pub max_duration: Duration,
}

impl fmt::Display for StreamSettings {
    /// Names what ends a whole stream: "its finish reason and \[DONE\]".
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.finish_reason, &self.end_mark) {
            (true, Some(mark)) => write!(formatter, "its finish reason and {mark}"),
            (true, None) => formatter.write_str("its finish reason"),
            (false, Some(mark)) => formatter.write_str(mark),
            (false, None) => formatter.write_str("its end"),
        }
    }
}
