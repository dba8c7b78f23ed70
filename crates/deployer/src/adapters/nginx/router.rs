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

/// Begins each error about the control port's answer.
const UNKNOWN: &str = "the router does not report which color is active";

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
        let shown = format!("GET {url}");
        let (status, text) = answer(self.client.get(&url), &shown)
            .await
            .map_err(|error| error.context(UNKNOWN))?;
        active_color(&shown, status, text.trim())
    }
}

#[async_trait]
impl Router for Nginx {
    async fn check_flags(&self) -> Result<(), PortError> {
        let directory = &self.flags.0;
        // A unique name: a command without the lock may check at the same time.
        let name = format!("probe-{:016x}", fastrand::u64(..));
        let path = directory.join(&name);
        let word = format!("{} {}", std::process::id(), jiff::Timestamp::now());
        remove_old_probes(directory);
        write_readable(&path, &word).map_err(|error| {
            let message = format!(
                "cannot write {}, where the router looks for its flags: {error}",
                path.display()
            );
            PortError::of_file(&error, message)
        })?;
        let url = format!("{}/{name}", self.control);
        let seen = answer(self.client.get(&url), &format!("GET {url}")).await;
        let _ = fs::remove_file(&path);
        let (status, text) = seen.map_err(|error| error.context("the router does not answer"))?;
        if status == 200 && text == word {
            return Ok(());
        }
        Err(unseen_flags(directory, &url, status))
    }

    async fn active(&self) -> Result<Color, PortError> {
        let (active_by_flag, answered) = (self.active_by_flag(), self.answered().await?);
        if active_by_flag == answered {
            return Ok(answered);
        }
        Err(PortError::Invalid(format!(
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
                return Err(PortError::TimedOut(format!(
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

/// The color that the control port answered to the request `shown`.
fn active_color(shown: &str, status: u16, text: &str) -> Result<Color, PortError> {
    match (status, text) {
        (200, "blue") => return Ok(Color::Blue),
        (200, "green") => return Ok(Color::Green),
        _ => {}
    }
    let message = format!("{UNKNOWN}: {shown} answered {status} {text:?}, not blue or green");
    Err(match status {
        200 => PortError::Invalid(message),
        _ => PortError::Refused { status, message },
    })
}

/// Why the router does not see the flags, by how it answered instead of with the probe.
fn unseen_flags(directory: &Path, url: &str, status: u16) -> PortError {
    let here = directory.display();
    match status {
        403 => PortError::PermissionDenied(format!(
            "the router may not read {here}: nginx runs as a user who must be able to search this directory and those above it (chmod a+x)"
        )),
        _ => PortError::Invalid(format!(
            "the router does not see the flags in {here}: what was written there is not what GET {url} answered (status {status}). Is router.flags the directory that nginx was started with, router.control this router, and its control.conf of the deployer's version?"
        )),
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
        let message = format!(
            "cannot {doing} the router's flag {}: {error}",
            path.display()
        );
        PortError::of_file(&error, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn router_answer_is_a_color_or_an_error_of_its_kind() {
        let color = |status, text| active_color("GET /active", status, text);
        assert_eq!(color(200, "blue"), Ok(Color::Blue));
        assert_eq!(color(200, "green"), Ok(Color::Green));
        let invalid = color(200, "hello").unwrap_err();
        assert!(matches!(invalid, PortError::Invalid(_)), "{invalid:?}");
        assert_eq!(
            color(404, "blue"),
            Err(PortError::Refused {
                status: 404,
                message: "the router does not report which color is active: GET /active answered 404 \"blue\", not blue or green".to_owned()
            })
        );
    }

    #[test]
    fn unseen_flags_are_permission_denied_only_if_nginx_forbids() {
        let error = |status| unseen_flags(Path::new("flags"), "http://control/probe", status);
        assert!(matches!(error(403), PortError::PermissionDenied(_)));
        for status in [200, 404] {
            assert!(matches!(error(status), PortError::Invalid(_)));
        }
    }

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
