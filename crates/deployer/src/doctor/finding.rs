//! The findings of `deployer doctor`.

use serde::Serialize;

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The topic, in one or two words.
    pub topic: String,
    /// What was found.
    pub text: String,
    /// What to do; `None` if nothing is wrong.
    pub advice: Option<String>,
}

impl Finding {
    /// Nothing is wrong.
    #[must_use]
    pub fn fine(topic: impl Into<String>, text: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            text: text.into(),
            advice: None,
        }
    }

    /// Something is wrong.
    #[must_use]
    pub fn wrong(
        topic: impl Into<String>,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self {
            advice: Some(advice.into()),
            ..Self::fine(topic, text)
        }
    }
}

/// Formats the last log lines of a service to follow a sentence; empty without lines.
#[must_use]
pub(crate) fn last_log_lines(lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("; its last log lines: {}", lines.join(" | ")),
    }
}
