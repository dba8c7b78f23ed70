//! The flag files, which nginx tests for each request.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use crate::{
    color::Color,
    kill_point,
    ports::{Flags, PortError},
};

const GREEN: &str = "green";
const SHADOW: &str = "shadow";

/// The directory of the flag files.
pub(crate) struct FlagDirectory(PathBuf);

impl FlagDirectory {
    /// The flags in this directory.
    pub(crate) fn new(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Directs all traffic to `color` from the next request on.
    pub(crate) fn activate(&self, color: Color) -> Result<(), PortError> {
        set_flag(&self.0, GREEN, color == Color::Green)
    }

    /// Returns whether a flag is set. A directory that does not exist yet has no flags.
    fn is_set(&self, name: &str) -> Result<bool, PortError> {
        let path = self.0.join(name);
        path.try_exists().map_err(|error| {
            let message = format!("cannot read the router's flag {}: {error}", path.display());
            PortError::of_file(&error, message)
        })
    }
}

#[async_trait]
impl Flags for FlagDirectory {
    async fn active(&self) -> Result<Color, PortError> {
        let green = self.is_set(GREEN)?;
        Ok(if green { Color::Green } else { Color::Blue })
    }

    async fn is_fit(&self, color: Color) -> Result<bool, PortError> {
        self.is_set(fit_flag(color))
    }

    async fn set_fit(&self, color: Color, fit: bool) -> Result<(), PortError> {
        set_flag(&self.0, fit_flag(color), fit)
    }

    async fn is_shadow(&self) -> Result<bool, PortError> {
        self.is_set(SHADOW)
    }

    async fn set_shadow(&self, on: bool) -> Result<(), PortError> {
        // Every command with the lock calls this, and there is rarely anything to remove; before the first `up`
        // there is not even a directory. A flag that a power cut restores is removed later.
        if !on && matches!(self.is_set(SHADOW), Ok(false)) {
            return Ok(());
        }
        set_flag(&self.0, SHADOW, on)
    }
}

fn fit_flag(color: Color) -> &'static str {
    match color {
        Color::Blue => "fit-blue",
        Color::Green => "fit-green",
    }
}

/// Creates or removes a flag durably.
fn set_flag(directory: &Path, name: &str, present: bool) -> Result<(), PortError> {
    let path = directory.join(name);
    let change = format!("flag {name} {}", if present { "on" } else { "off" });
    kill_point::pass(format_args!("before {change}"));
    let changed = if present {
        let mut options = OpenOptions::new();
        // nginx does not read a flag. No umask makes it writable for other users.
        let options = options.create(true).truncate(true).write(true).mode(0o640);
        options.open(&path).map(drop)
    } else {
        fs::remove_file(&path).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    };
    let kept = changed.and_then(|()| File::open(directory)?.sync_all());
    kill_point::pass(format_args!("after {change}"));
    kept.map_err(|error| {
        let doing = if present { "create" } else { "remove" };
        let message = format!(
            "cannot {doing} the router's flag {}: {error}",
            path.display()
        );
        PortError::of_file(&error, message)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn flag_can_be_set_and_unset_repeatedly() {
        let directory = tempfile::tempdir().unwrap();
        for present in [true, true, false, false, true] {
            set_flag(directory.path(), "green", present).unwrap();
            let path = directory.path().join("green");
            assert_eq!(path.exists(), present);
            if present {
                let mode = fs::metadata(path).unwrap().permissions().mode();
                assert_eq!(mode & 0o027, 0, "{mode:o}");
            }
        }
    }

    #[test]
    fn missing_flag_directory_is_named_in_error() {
        let error = set_flag(Path::new("no/such"), "green", true)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot create the router's flag no/such/green"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn unreadable_flag_is_an_error_and_not_an_unset_flag() {
        let directory = tempfile::tempdir().unwrap();
        // A file in place of the directory: the kernel refuses to look up names below it.
        let file = directory.path().join("flags");
        fs::write(&file, "").unwrap();
        let flags = FlagDirectory::new(file.join("below"));
        let error = flags.is_fit(Color::Blue).await.unwrap_err().to_string();
        assert!(
            error.starts_with("cannot read the router's flag"),
            "{error}"
        );
    }
}
