//! One-time links, with which a person who can write the state directory signs in.
//!
//! A link adds no power: a person who can write the state directory can already move traffic.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use model_repository::hexadecimal;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    monitor::page::{
        page_directory,
        token::{self, digest},
    },
    state::atomic_file,
};

/// How long a link can be used.
pub(crate) const LIFETIME: Duration = Duration::from_mins(5);

/// The links of one installation: one file each, named by the digest of its token.
pub(crate) struct Links {
    directory: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Link {
    /// Who made it, as `user@host`.
    by: String,
    expires: Timestamp,
}

/// Why a link cannot be used.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    /// There is no such link.
    #[error(
        "this link was used already, or was never made: `deployer page-link` makes another one"
    )]
    Unknown,
    /// It is too old.
    #[error("this link expired 5 min after it was made: `deployer page-link` makes another one")]
    Expired,
    /// Its file cannot be read.
    #[error("this link cannot be read: {0}; `deployer page-link` must run as the monitor's user")]
    Unreadable(io::Error),
}

impl Links {
    /// The links in the state directory `state`.
    pub(crate) fn of(state: &Path) -> Self {
        Self {
            directory: page_directory(state).join("links"),
        }
    }

    /// Makes a link for `by` that can be used once, within 5 min after `now`. Returns its token; only the token's digest is
    /// kept.
    pub(crate) fn make(&self, by: &str, now: Timestamp) -> io::Result<String> {
        let mut directories = DirBuilder::new();
        directories.recursive(true).mode(0o700);
        directories.create(&self.directory)?;
        self.remove_expired(now);
        let link = Link {
            by: by.to_owned(),
            expires: now + LIFETIME,
        };
        let token = token::random()?;
        atomic_file::replace_private(&self.path(&token), &serde_json::to_string(&link)?)?;
        Ok(token)
    }

    /// Uses up the link with this token. Returns who made it. Of several attempts at the same time one succeeds.
    pub(crate) fn redeem(&self, token: &str, now: Timestamp) -> Result<String, LinkError> {
        let path = self.path(token);
        let used = path.with_extension("used");
        match fs::rename(&path, &used) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(LinkError::Unknown);
            }
            renamed => renamed.map_err(LinkError::Unreadable)?,
        }
        let text = fs::read_to_string(&used);
        fs::remove_file(&used).map_err(LinkError::Unreadable)?;
        let text = text.map_err(LinkError::Unreadable)?;
        let link: Link =
            serde_json::from_str(&text).map_err(|error| LinkError::Unreadable(error.into()))?;
        if now >= link.expires {
            return Err(LinkError::Expired);
        }
        Ok(link.by)
    }

    fn path(&self, token: &str) -> PathBuf {
        let name = hexadecimal(&digest(token));
        self.directory.join(format!("{name}.json"))
    }

    /// Removes links that expired, and files that a killed process left.
    fn remove_expired(&self, now: Timestamp) {
        let Ok(files) = fs::read_dir(&self.directory) else {
            return;
        };
        for file in files.flatten() {
            let modified = file.metadata().and_then(|metadata| metadata.modified());
            let made = modified.ok().and_then(|at| Timestamp::try_from(at).ok());
            if made.is_some_and(|made| now >= made + LIFETIME) {
                // The next call tries again.
                let _ = fs::remove_file(file.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn link_is_used_once() {
        let state = tempfile::tempdir().unwrap();
        let links = Links::of(state.path());
        let token = links.make("ann@host", Timestamp::UNIX_EPOCH).unwrap();
        let later = Timestamp::UNIX_EPOCH + LIFETIME - Duration::from_secs(1);
        assert_eq!(links.redeem(&token, later).unwrap(), "ann@host");
        for token in [&*token, "", "../../journal"] {
            let again = links.redeem(token, later).unwrap_err();
            assert!(matches!(again, LinkError::Unknown), "{again}");
        }
    }

    #[test]
    fn link_expires() {
        let state = tempfile::tempdir().unwrap();
        let links = Links::of(state.path());
        let token = links.make("ann@host", Timestamp::UNIX_EPOCH).unwrap();
        let expired = links.redeem(&token, Timestamp::UNIX_EPOCH + LIFETIME);
        assert!(matches!(expired, Err(LinkError::Expired)));
    }

    #[test]
    fn link_file_is_private_and_has_no_token() {
        let state = tempfile::tempdir().unwrap();
        let links = Links::of(state.path());
        links.make("bob@host", Timestamp::now()).unwrap();
        let now = Timestamp::now() + LIFETIME;
        let token = links.make("ann@host", now).unwrap();
        let files: Vec<_> = fs::read_dir(&links.directory).unwrap().flatten().collect();
        let [file] = &files[..] else {
            panic!("expected that the expired link is removed: {files:?}");
        };
        let text = fs::read_to_string(file.path()).unwrap();
        let name = file.file_name().into_string().unwrap();
        assert!(!text.contains(&token) && !name.contains(&token), "{text}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&file.path()), 0o600);
        assert_eq!(mode(&links.directory), 0o700);
    }
}
