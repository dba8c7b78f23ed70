//! The router: flag files that nginx tests for each request, and its control port.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    adapters::{
        http::{answer, client},
        nginx::configuration,
    },
    color::Color,
    config::Settings,
    kill_point,
    ports::{PortError, Router, RouterLimits},
};

/// The directory of the flag files. They decide where traffic goes.
pub(crate) struct Flags(PathBuf);

impl Flags {
    /// The flags in this directory.
    pub(crate) fn of(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// The color that has the traffic.
    pub(crate) fn active(&self) -> Color {
        if self.0.join("green").exists() {
            Color::Green
        } else {
            Color::Blue
        }
    }

    /// Directs all traffic to `color` from the next request on.
    pub(crate) fn activate(&self, color: Color) -> Result<(), PortError> {
        set_flag(&self.0, "green", color == Color::Green)
    }

    /// Returns whether `color` may stand in for the other color.
    pub(crate) fn is_fit(&self, color: Color) -> bool {
        self.0.join(fit_flag(color)).exists()
    }

    /// Sets whether `color` may stand in for the other color.
    pub(crate) fn set_fit(&self, color: Color, fit: bool) -> Result<(), PortError> {
        set_flag(&self.0, fit_flag(color), fit)
    }

    /// Sets whether the idle color receives a copy of each client request.
    pub(crate) fn set_shadow(&self, on: bool) -> Result<(), PortError> {
        const NAME: &str = "shadow";

        // Every command with the lock calls this, and there is rarely anything to remove; before the first `up`
        // there is not even a directory. A flag that a power cut restores is removed later.
        let absent = matches!(self.0.join(NAME).try_exists(), Ok(false));
        if !on && absent {
            return Ok(());
        }
        set_flag(&self.0, NAME, on)
    }
}

/// nginx with this project's configuration.
pub(in crate::adapters) struct Nginx {
    flags: Flags,
    configuration: Option<PathBuf>,
    control: String,
    confirm_timeout: Duration,
    client: reqwest::Client,
}

impl Nginx {
    pub(in crate::adapters) fn new(settings: &Settings) -> Result<Self, PortError> {
        Ok(Self {
            flags: Flags::of(settings.router.flags.clone()),
            configuration: settings.router.configuration.clone(),
            control: settings.router.control.clone(),
            confirm_timeout: settings.router.confirm_timeout,
            client: client(settings.probe.timeout)?,
        })
    }

    async fn answered(&self) -> Result<Color, PortError> {
        let url = format!("{}/active", self.control);
        let unusable = |problem: String| {
            PortError(format!(
                "the router does not report which color is active: GET {url} {problem}"
            ))
        };
        let (status, text) = answer(self.client.get(&url)).await.map_err(unusable)?;
        match (status, text.trim()) {
            (200, "blue") => Ok(Color::Blue),
            (200, "green") => Ok(Color::Green),
            (status, text) => Err(unusable(format!(
                "answered {status} {text:?}, not blue or green"
            ))),
        }
    }
}

#[async_trait]
impl Router for Nginx {
    async fn check_flags(&self) -> Result<(), PortError> {
        let directory = &self.flags.0;
        let here = directory.display();
        // A unique name: a command without the lock may check at the same time.
        let name = format!("probe-{:016x}", fastrand::u64(..));
        let path = directory.join(&name);
        let word = format!("{} {}", std::process::id(), jiff::Timestamp::now());
        remove_old_probes(directory);
        write_readable(&path, &word).map_err(|error| {
            PortError(format!(
                "cannot write {}, where the router looks for its flags: {error}",
                path.display()
            ))
        })?;
        let url = format!("{}/{name}", self.control);
        let seen = answer(self.client.get(&url)).await;
        let _ = fs::remove_file(&path);
        match seen {
            Ok((200, text)) if text == word => Ok(()),
            Ok((403, _)) => Err(PortError(format!(
                "the router may not read {here}: nginx runs as a user who must be able to search this directory and those above it (chmod a+x)"
            ))),
            Ok((status, _)) => Err(PortError(format!(
                "the router does not see the flags in {here}: what was written there is not what GET {url} answered (status {status}). Is router.flags the directory that nginx was started with, router.control this router, and its control.conf of the deployer's version?"
            ))),
            Err(problem) => Err(PortError(format!(
                "the router does not answer: GET {url} {problem}"
            ))),
        }
    }

    async fn active(&self) -> Result<Color, PortError> {
        let (active_by_flag, answered) = (self.active_by_flag(), self.answered().await?);
        if active_by_flag == answered {
            return Ok(answered);
        }
        Err(PortError(format!(
            "the flags in {} say {active_by_flag}, but the router at {} answers {answered}: is this its flag directory, and may its workers search it?",
            self.flags.0.display(),
            self.control
        )))
    }

    async fn switch_to(&self, color: Color) -> Result<Color, PortError> {
        const PAUSE: Duration = Duration::from_millis(20);

        let displaced = self.active_by_flag();
        self.flags.activate(color)?;
        let deadline = Instant::now() + self.confirm_timeout;
        loop {
            let problem = match self.active().await {
                Ok(active) if active == color => return Ok(displaced),
                Ok(active) => format!("it answers {active}"),
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                return Err(PortError(format!(
                    "the router was told to use {color} and did not confirm it: {problem}"
                )));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn active_by_flag(&self) -> Color {
        self.flags.active()
    }

    fn is_fit(&self, color: Color) -> bool {
        self.flags.is_fit(color)
    }

    fn set_fit(&self, color: Color, fit: bool) -> Result<(), PortError> {
        self.flags.set_fit(color, fit)
    }

    fn set_shadow(&self, on: bool) -> Result<(), PortError> {
        self.flags.set_shadow(on)
    }

    fn limits(&self) -> Result<Option<RouterLimits>, PortError> {
        let configuration = self.configuration.as_deref();
        configuration.map(configuration::limits).transpose()
    }
}

/// Removes what killed deployers left while they checked.
fn remove_old_probes(flags: &Path) {
    const OLD: Duration = Duration::from_mins(1);

    for entry in fs::read_dir(flags).into_iter().flatten().flatten() {
        let is_probe = entry.file_name().to_string_lossy().starts_with("probe");
        let written = entry.metadata().and_then(|it| it.modified());
        let age = written.ok().and_then(|written| written.elapsed().ok());
        if is_probe && age.is_some_and(|age| age > OLD) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Readable for every user, because nginx may run as another one.
fn write_readable(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
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
        File::create(&path).map(drop)
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
        PortError(format!(
            "cannot {doing} the router's flag {}: {error}",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_can_be_set_and_unset_repeatedly() {
        let directory = tempfile::tempdir().unwrap();
        for present in [true, true, false, false, true] {
            set_flag(directory.path(), "green", present).unwrap();
            assert_eq!(directory.path().join("green").exists(), present);
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
}
