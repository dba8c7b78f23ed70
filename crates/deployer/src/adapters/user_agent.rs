//! The user agent of the deployer.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

/// The user agent towards receivers of alerts.
pub(super) const USER_AGENT: &str = concat!("deployer/", env!("CARGO_PKG_VERSION"));

/// The user agent of one installation, by which the router's log tells the deployer's requests from those of clients.
///
/// It contains a random token from the file `token` of the state directory. Without it, any client could pass for the
/// deployer, and another installation's deployer would.
#[derive(Debug)]
pub(super) struct UserAgent {
    file: PathBuf,
    stored: OnceLock<String>,
    /// For a process that cannot use the file: it recognizes its own requests.
    temporary: String,
}

impl UserAgent {
    pub(super) fn of_installation(state: &Path) -> Self {
        let random = random_token().unwrap_or_default();
        Self {
            file: state.join("token"),
            stored: OnceLock::new(),
            temporary: with_token(&random),
        }
    }

    /// Returns the user agent. Creates the token if the state directory exists and has none.
    pub(super) fn get(&self) -> &str {
        if let Some(stored) = self.stored.get() {
            return stored;
        }
        match read_or_create(&self.file) {
            Ok(token) => self.stored.get_or_init(|| with_token(&token)),
            // This user may not read the state directory, or no command has created it yet.
            Err(_) => &self.temporary,
        }
    }
}

fn with_token(token: &str) -> String {
    format!("{USER_AGENT} ({token})")
}

/// 128 random bits in hexadecimal.
fn random_token() -> io::Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn is_token(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn read_or_create(path: &Path) -> io::Result<String> {
    match fs::read_to_string(path) {
        Ok(token) if is_token(token.trim()) => return Ok(token.trim().to_owned()),
        Ok(_) => {
            let message = format!("{} is not a token: remove it", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) => {}
    }
    let new = path.with_extension(format!("{}.new", process::id()));
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).mode(0o600).open(&new)?;
    file.write_all(random_token()?.as_bytes())?;
    file.sync_all()?;
    // Unlike a renamed file, a link does not replace the token that another command has just created.
    let linked = fs::hard_link(&new, path);
    fs::remove_file(&new)?;
    match linked {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => fs::read_to_string(path),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn installation_keeps_its_secret_token() {
        let state = tempfile::tempdir().unwrap();
        let first = UserAgent::of_installation(state.path());
        let second = UserAgent::of_installation(state.path());
        assert_eq!(first.get(), second.get());
        assert!(first.get().starts_with("deployer/"), "{}", first.get());
        let metadata = state.path().join("token").metadata().unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
        let other = tempfile::tempdir().unwrap();
        let other = UserAgent::of_installation(other.path());
        assert_ne!(first.get(), other.get());
    }

    #[test]
    fn token_is_created_only_in_existing_state_directory() {
        let parent = tempfile::tempdir().unwrap();
        let state = parent.path().join("state");
        let user_agent = UserAgent::of_installation(&state);
        let temporary = user_agent.get().to_owned();
        assert!(!state.exists());
        assert_eq!(user_agent.get(), temporary);
        fs::create_dir(&state).unwrap();
        assert_ne!(user_agent.get(), temporary);
    }
}
