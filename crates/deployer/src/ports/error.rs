//! Why a port failed.

use std::io;

use thiserror::Error;

/// Why a port failed: the kind for the code that decides by it, and a sentence for the person at the terminal.
///
/// Adapters choose the kind, also where a tool says only in words what failed. No other code reads the words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PortError {
    /// The other side gave no whole answer: no process listens there, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// The time limit passed first.
    #[error("{0}")]
    TimedOut(String),
    /// The other side answered, and not with success.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The sentence.
        message: String,
    },
    /// The server answered with success, and the answer is of no use: an empty text, or half a stream.
    #[error("{0}")]
    BadAnswer(String),
    /// A program could not be started: it is not installed, or not executable.
    #[error("{0}")]
    NoProgram(String),
    /// A program ran and failed.
    #[error("{0}")]
    ProgramFailed(String),
    /// This user, or the router's, may not do it.
    #[error("{0}")]
    PermissionDenied(String),
    /// A setting, a file, or an answer is not what it must be.
    #[error("{0}")]
    Invalid(String),
    /// Anything else, such as a full disk.
    #[error("{0}")]
    Other(String),
}

impl PortError {
    /// Chooses the kind by what the kernel said of a file or a directory. `message` should contain `error`.
    pub(crate) fn of_file(error: &io::Error, message: String) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied => Self::PermissionDenied(message),
            _ => Self::Other(message),
        }
    }

    /// Prepends what failed because of this. Keeps the kind.
    pub(crate) fn context(self, what: &str) -> Self {
        self.map_message(|message| format!("{what}: {message}"))
    }

    /// Changes the sentence, and keeps the kind.
    pub(crate) fn map_message(mut self, change: impl FnOnce(&str) -> String) -> Self {
        let (Self::Unreachable(message)
        | Self::TimedOut(message)
        | Self::Refused { message, .. }
        | Self::BadAnswer(message)
        | Self::NoProgram(message)
        | Self::ProgramFailed(message)
        | Self::PermissionDenied(message)
        | Self::Invalid(message)
        | Self::Other(message)) = &mut self;
        *message = change(message);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_error_is_permission_denied_only_if_kernel_says_so() {
        let kind = |number| {
            let error = io::Error::from_raw_os_error(number);
            PortError::of_file(&error, error.to_string())
        };
        assert_eq!(
            kind(13),
            PortError::PermissionDenied("Permission denied (os error 13)".to_owned())
        );
        assert_eq!(
            kind(28),
            PortError::Other("No space left on device (os error 28)".to_owned())
        );
    }

    #[test]
    fn context_changes_sentence_and_keeps_kind() {
        let error = PortError::Refused {
            status: 503,
            message: "GET http://blue answered 503".to_owned(),
        };
        let error = error.context("blue is not healthy");
        assert!(matches!(error, PortError::Refused { status: 503, .. }));
        assert_eq!(
            error.to_string(),
            "blue is not healthy: GET http://blue answered 503"
        );
    }
}
