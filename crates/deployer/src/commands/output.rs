//! What a command returns, and how it is printed.

use std::{fmt, io::Write as _};

use serde_json::{Value, json};

use crate::exit_code;

/// The result of a command.
pub(super) struct CommandOutput {
    pub(super) code: u8,
    /// For people, on standard output.
    pub(super) text: String,
    /// For programs: the last line of `--json`.
    pub(super) object: Value,
}

impl CommandOutput {
    /// The command succeeded.
    pub(super) fn success(text: impl Into<String>) -> Self {
        Self::with(exit_code::FINE, text)
    }

    pub(super) fn with(code: u8, text: impl Into<String>) -> Self {
        let text = text.into();
        Self {
            code,
            object: json!({"event": "ended", "text": text}),
            text,
        }
    }

    /// Replaces the object for programs.
    pub(super) fn with_object(mut self, object: Value) -> Self {
        self.object = object;
        self
    }
}

/// A command that failed for a known reason.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct CommandError {
    pub(super) code: u8,
    message: String,
}

impl CommandError {
    pub(super) fn with(code: u8, message: impl fmt::Display) -> anyhow::Error {
        let message = message.to_string();
        Self { code, message }.into()
    }

    pub(super) fn usage(message: impl fmt::Display) -> anyhow::Error {
        Self::with(exit_code::USAGE, message)
    }

    pub(super) fn refused(message: impl fmt::Display) -> anyhow::Error {
        Self::with(exit_code::REFUSED, message)
    }

    pub(super) fn halted(message: impl fmt::Display) -> anyhow::Error {
        let message = format!("{message}; `deployer status` shows where traffic goes");
        Self::with(exit_code::HALTED, message)
    }
}

/// Prints the result of a command.
pub(super) fn print(result: &str) {
    // A closed pipe is not an error of the deployer.
    let _ = writeln!(std::io::stdout(), "{result}");
}
