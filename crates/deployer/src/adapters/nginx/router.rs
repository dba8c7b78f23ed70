//! The router: nginx and its control port.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{
    adapters::{
        http::{answer, client},
        nginx::{configuration, flags::FlagDirectory},
    },
    color::Color,
    config::Settings,
    ports::{Flags as _, OnSilentRouter, PortError, Repeat, Router, RouterLimits, Switched},
};

/// Begins each error about the control port's answer.
const UNKNOWN: &str = "the router does not report which color is active";

/// nginx with this project's configuration.
pub(crate) struct Nginx {
    flags: FlagDirectory,
    configuration: Option<PathBuf>,
    control: String,
    confirm_timeout: Duration,
    client: reqwest::Client,
}

impl Nginx {
    pub(crate) fn new(settings: &Settings) -> Result<Self, PortError> {
        Ok(Self {
            flags: FlagDirectory::new(settings.router.flags.clone()),
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
        let directory = self.flags.path();
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
        let (active_by_flag, answered) = (self.flags.active().await?, self.answered().await?);
        if active_by_flag == answered {
            return Ok(answered);
        }
        Err(PortError::Invalid(format!(
            "the flags in {} say {active_by_flag}, but the router at {} answers {answered}: is this its flag directory, and may its workers search it?",
            self.flags.path().display(),
            self.control
        )))
    }

    async fn switch_to(
        &self,
        color: Color,
        _silent: OnSilentRouter,
    ) -> Result<Switched, PortError> {
        const PAUSE: Duration = Duration::from_millis(20);

        // The flag may be writable although it is unreadable, and traffic must move.
        let displaced = self.flags.active().await.unwrap_or(color.other());
        self.flags.activate(color)?;
        let deadline = Instant::now() + self.confirm_timeout;
        loop {
            let problem = match self.active().await {
                Ok(active) if active == color => return Ok(Switched::confirmed(displaced)),
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

    async fn in_flight(&self) -> Result<u64, PortError> {
        let url = format!("{}/in-flight", self.control);
        let shown = format!("GET {url}");
        let (status, text) = answer(self.client.get(&url), &shown).await?;
        other_requests(&shown, status, text.trim())
    }

    async fn limits(&self) -> Result<Option<RouterLimits>, PortError> {
        let configuration = self.configuration.as_deref();
        configuration.map(configuration::limits).transpose()
    }

    async fn repeat(&self) -> Result<Repeat, PortError> {
        let url = format!("{}/repeat", self.control);
        let shown = format!("GET {url}");
        let (status, text) = answer(self.client.get(&url), &shown).await?;
        repeat(&shown, status, text.trim())
    }
}

/// The color that the control port answered to the request `shown`.
pub(super) fn active_color(shown: &str, status: u16, text: &str) -> Result<Color, PortError> {
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

/// The requests in flight that the control port answered to the request `shown`, without this one.
pub(super) fn other_requests(shown: &str, status: u16, text: &str) -> Result<u64, PortError> {
    let others = text.parse().ok().and_then(|all: u64| all.checked_sub(1));
    if let (200, Some(others)) = (status, others) {
        return Ok(others);
    }
    let message = format!(
        "the router does not report its requests in flight: {shown} answered {status} {text:?}. Is its control.conf of the deployer's version?"
    );
    Err(match status {
        200 => PortError::Invalid(message),
        _ => PortError::Refused { status, message },
    })
}

/// Which requests are repeated, as the control port answered to the request `shown`.
pub(in crate::adapters) fn repeat(
    shown: &str,
    status: u16,
    text: &str,
) -> Result<Repeat, PortError> {
    let known = Repeat::ALL.into_iter().find(|it| it.to_string() == text);
    if let (200, Some(repeat)) = (status, known) {
        return Ok(repeat);
    }
    let message = format!(
        "the router does not report which requests it repeats: {shown} answered {status} {text:?}. Are its files of the deployer's version?"
    );
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
    fn requests_in_flight_do_not_include_the_question() {
        let others = |status, text| other_requests("GET /in-flight", status, text);
        assert_eq!(others(200, "1"), Ok(0));
        assert_eq!(others(200, "6"), Ok(5));
        for text in ["", "0", "-1", "many"] {
            let invalid = others(200, text).unwrap_err();
            assert!(matches!(invalid, PortError::Invalid(_)), "{invalid:?}");
        }
        let refused = others(404, "6").unwrap_err();
        assert!(matches!(refused, PortError::Refused { status: 404, .. }));
    }

    #[test]
    fn repeat_is_parsed_as_it_is_displayed() {
        let parsed = |status, text: &str| repeat("GET /repeat", status, text);
        for known in Repeat::ALL {
            assert_eq!(parsed(200, &known.to_string()), Ok(known));
        }
        let invalid = parsed(200, "sometimes").unwrap_err();
        assert!(matches!(invalid, PortError::Invalid(_)), "{invalid:?}");
        let refused = parsed(404, "always").unwrap_err();
        assert!(matches!(refused, PortError::Refused { status: 404, .. }));
    }

    #[test]
    fn unseen_flags_are_permission_denied_only_if_nginx_forbids() {
        let error = |status| unseen_flags(Path::new("flags"), "http://control/probe", status);
        assert!(matches!(error(403), PortError::PermissionDenied(_)));
        for status in [200, 404] {
            assert!(matches!(error(status), PortError::Invalid(_)));
        }
    }
}
