//! What `deployer doctor` finds.

use serde::Serialize;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub topic: String,
    /// How it is.
    pub text: String,
    /// What to do about it; none when nothing is wrong.
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

    /// Something is.
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

/// What a service said last, behind a semicolon; nothing when it said nothing.
#[must_use]
pub(crate) fn last_words(lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("; its last words: {}", lines.join(" | ")),
    }
}
