//! The token that deployers, agents, and the store share.

use std::path::{Path, PathBuf};

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use crate::{
    monitor::page::token::{digest, position},
    ports::PortError,
};

/// A shorter token can be guessed.
const SHORTEST: usize = 16;

/// A file with a token a line. The first one is sent, and each one is accepted, so that a token can be replaced while all
/// processes run. `#` begins a comment. The file is read for each request.
#[derive(Debug, Clone)]
pub(crate) struct TokenFile(PathBuf);

impl TokenFile {
    /// Opens the file, and fails unless it has a token.
    pub(crate) fn open(path: &Path) -> Result<Self, PortError> {
        let file = Self(path.to_owned());
        file.tokens()?;
        Ok(file)
    }

    /// Returns the value of the header `Authorization` for a request.
    pub(crate) fn authorization(&self) -> Result<HeaderValue, PortError> {
        let tokens = self.tokens()?;
        let first = tokens.first().map_or("", String::as_str);
        let mut header = HeaderValue::try_from(format!("Bearer {first}"))
            .map_err(|_| self.invalid("expected visible ASCII characters"))?;
        header.set_sensitive(true);
        Ok(header)
    }

    /// Returns whether a request has one of the tokens. The time that it takes does not depend on the tokens' bytes.
    pub(crate) fn accepts(&self, headers: &HeaderMap) -> Result<bool, PortError> {
        let given = headers.get(AUTHORIZATION).and_then(|it| it.to_str().ok());
        let Some(given) = given.and_then(|it| it.strip_prefix("Bearer ")) else {
            return Ok(false);
        };
        let known: Vec<_> = self.tokens()?.iter().map(|token| digest(token)).collect();
        Ok(position(known.iter(), &digest(given.trim())).is_some())
    }

    fn tokens(&self) -> Result<Vec<String>, PortError> {
        let text = std::fs::read_to_string(&self.0).map_err(|error| {
            let message = format!("cannot read the token file {}: {error}", self.0.display());
            PortError::of_file(&error, message)
        })?;
        let lines = text.lines().map(str::trim);
        let tokens: Vec<_> = lines
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        if tokens.is_empty() {
            return Err(self.invalid(
                "it has no token; write one random line, such as that of `openssl rand -hex 32`",
            ));
        }
        if tokens.iter().any(|token| token.len() < SHORTEST) {
            return Err(self.invalid(&format!(
                "a token has fewer than {SHORTEST} characters, so it can be guessed"
            )));
        }
        Ok(tokens)
    }

    fn invalid(&self, what: &str) -> PortError {
        PortError::Invalid(format!("the token file {}: {what}", self.0.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(AUTHORIZATION, value)])
    }

    #[test]
    fn every_token_of_file_is_accepted_and_first_is_sent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, "# new\nabcdefghijklmnop\n0123456789abcdef\n").unwrap();
        let file = TokenFile::open(&path).unwrap();
        assert_eq!(file.authorization().unwrap(), "Bearer abcdefghijklmnop");
        for (value, accepted) in [
            ("Bearer abcdefghijklmnop", true),
            ("Bearer 0123456789abcdef", true),
            ("Bearer 0123456789abcdeF", false),
            ("Bearer ", false),
            ("Basic abcdefghijklmnop", false),
        ] {
            assert_eq!(file.accepts(&headers(value)), Ok(accepted), "{value}");
        }
        assert_eq!(file.accepts(&HeaderMap::new()), Ok(false));
    }

    #[test]
    fn empty_file_and_short_token_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        for (text, message) in [
            ("# none\n", "it has no token"),
            ("short\n", "fewer than 16 characters"),
        ] {
            std::fs::write(&path, text).unwrap();
            let error = TokenFile::open(&path).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
        let error = TokenFile::open(&directory.path().join("none")).unwrap_err();
        assert!(error.to_string().starts_with("cannot read"), "{error}");
    }
}
