//! Servers and nginx as processes on this machine. They outlive the deployer that started them;
//! a record of each lies in the state directory.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::{
    process::{Child, Command},
    time::Instant,
};

use crate::{
    color::Color,
    config::{ProcessSettings, Settings},
    journal,
    ports::{Fleet, Service, State, WorldError},
};

/// Starts processes of its own and finds those that an earlier deployer started.
pub(super) struct ProcessFleet {
    settings: ProcessSettings,
    model: String,
    model_root: Option<PathBuf>,
    blue_url: String,
    green_url: String,
    directory: PathBuf,
    /// Those that this deployer started itself: it must collect them when they exit.
    children: Mutex<HashMap<&'static str, Child>>,
}

/// One process that was started.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Together with `pid` this names one process for good: numbers are used again.
    started_at_tick: u64,
    version: Option<String>,
}

impl ProcessFleet {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.fleet.process.clone(),
            model: settings.release.model.clone(),
            model_root: settings.release.model_root.clone(),
            blue_url: settings.blue.url.clone(),
            green_url: settings.green.url.clone(),
            directory: settings.state.join("processes"),
            children: Mutex::default(),
        }
    }

    fn record_path(&self, service: Service) -> PathBuf {
        self.directory.join(format!("{}.json", service.name()))
    }

    fn log_path(&self, service: Service) -> PathBuf {
        self.directory.join(format!("{}.log", service.name()))
    }

    fn record(&self, service: Service) -> Option<Record> {
        let text = fs::read_to_string(self.record_path(service)).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn spawn(
        &self,
        service: Service,
        version: Option<&str>,
        mut command: Command,
    ) -> Result<(), WorldError> {
        let program = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let failed = |doing: &str, error: io::Error| {
            WorldError(format!(
                "cannot {doing} {service_name} ({program}): {error}",
                service_name = service.name()
            ))
        };
        fs::create_dir_all(&self.directory).map_err(|error| failed("make a place for", error))?;
        let log = self.log_path(service);
        if log.exists() {
            fs::rename(&log, log.with_extension("previous.log"))
                .map_err(|error| failed("put away the log of", error))?;
        }
        let output = File::create(&log).map_err(|error| failed("make a log for", error))?;
        let errors = output
            .try_clone()
            .map_err(|error| failed("make a log for", error))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C at the terminal is for the deployer, not for what it started.
            .process_group(0)
            .spawn()
            .map_err(|error| failed("start", error))?;
        let pid = child.id().unwrap_or_default().cast_signed();
        let record = Record {
            pid,
            started_at_tick: Process::look_up(pid).map_or(0, |process| process.started_at_tick),
            version: version.map(str::to_owned),
        };
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(service.name(), child);
        serde_json::to_string(&record)
            .map_err(io::Error::from)
            .and_then(|text| journal::replace(&self.record_path(service), &text))
            .map_err(|error| failed("write down the process of", error))
    }

    /// The process, if it is the recorded one and it is alive.
    fn alive(record: &Record) -> Option<Pid> {
        let process = Process::look_up(record.pid)?;
        (process.started_at_tick == record.started_at_tick && !process.is_zombie)
            .then(|| Pid::from_raw(record.pid))
            .flatten()
    }

    /// Collects the child if it is ours and has exited, and says how.
    fn exit_status(&self, service: Service) -> Option<String> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let status = children.get_mut(service.name())?.try_wait().ok()??;
        Some(status.to_string())
    }

    /// Waits until the process is gone; false when it still lives at the deadline.
    async fn gone_by(&self, service: Service, record: &Record, deadline: Instant) -> bool {
        const PAUSE: Duration = Duration::from_millis(20);
        loop {
            let _ = self.exit_status(service);
            if Self::alive(record).is_none() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

#[async_trait]
impl Fleet for ProcessFleet {
    async fn start_router(&self) -> Result<(), WorldError> {
        if self
            .record(Service::Router)
            .is_some_and(|record| Self::alive(&record).is_some())
        {
            return Ok(());
        }
        let prefix = &self.settings.nginx_prefix;
        for directory in ["flags", "logs"] {
            let path = prefix.join(directory);
            fs::create_dir_all(&path).map_err(|error| {
                WorldError(format!("cannot create {}: {error}", path.display()))
            })?;
        }
        // As root, nginx would run its workers as another user, who may not be able to search the
        // flag directory: such a worker silently sends everything to blue.
        let user = if rustix::process::geteuid().is_root() {
            " user root;"
        } else {
            ""
        };
        let mut command = Command::new(&self.settings.nginx);
        command
            .arg("-p")
            .arg(prefix)
            .arg("-c")
            .arg(&self.settings.nginx_configuration)
            .arg("-g")
            .arg(format!("daemon off;{user}"));
        self.spawn(Service::Router, None, command)
    }

    async fn start(&self, color: Color, version: &str) -> Result<(), WorldError> {
        let service = Service::Server(color);
        self.stop(service).await?;
        let Some((program, arguments)) = self.settings.command.split_first() else {
            return Err(WorldError(
                "fleet.process.command is empty: it must name the model server's program"
                    .to_owned(),
            ));
        };
        let url = match color {
            Color::Blue => &self.blue_url,
            Color::Green => &self.green_url,
        };
        let (host, port) = host_and_port(url)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("MODEL_NAME", &self.model)
            .env("MODEL_VERSION", version)
            .env("HOST", host)
            .env("PORT", port);
        if let Some(root) = &self.model_root {
            command.env("MODEL_ROOT", root);
        }
        self.spawn(service, Some(version), command)
    }

    async fn stop(&self, service: Service) -> Result<(), WorldError> {
        let Some(record) = self.record(service) else {
            return Ok(());
        };
        // nginx's word for "finish what you are doing" is SIGQUIT.
        let gentle = match service {
            Service::Server(_) => Signal::TERM,
            Service::Router => Signal::QUIT,
        };
        let bounds = [
            (gentle, self.settings.stop_timeout),
            (Signal::KILL, Duration::from_secs(5)),
        ];
        for (signal, bound) in bounds {
            let Some(pid) = Self::alive(&record) else {
                return Ok(());
            };
            // The process may end by itself between the look and the signal.
            let _ = kill_process(pid, signal);
            if self.gone_by(service, &record, Instant::now() + bound).await {
                return Ok(());
            }
        }
        Err(WorldError(format!(
            "{} (process {}) does not end, not even by SIGKILL",
            service.name(),
            record.pid
        )))
    }

    async fn inspect(&self, service: Service) -> Result<(State, Option<String>), WorldError> {
        let exited = self.exit_status(service);
        let Some(record) = self.record(service) else {
            return Ok((State::Stopped("it was never started".to_owned()), None));
        };
        let state = match (Self::alive(&record), exited) {
            (Some(_), _) => State::Running,
            (None, Some(status)) => State::Stopped(status),
            (None, None) => State::Stopped(format!("process {} is gone", record.pid)),
        };
        Ok((state, record.version))
    }

    async fn logs(&self, service: Service, lines: usize) -> Vec<String> {
        let bytes = fs::read(self.log_path(service)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }
}

/// What Linux tells of a process.
struct Process {
    started_at_tick: u64,
    is_zombie: bool,
}

impl Process {
    fn look_up(pid: i32) -> Option<Self> {
        let stat =
            fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
        // proc_pid_stat(5): the second field is the program's name in parentheses, which may
        // itself hold spaces and parentheses; the state is the 3rd field, the start the 22nd.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        Some(Self {
            started_at_tick: fields.get(19)?.parse().ok()?,
            is_zombie: matches!(fields.first(), Some(&"Z" | &"X")),
        })
    }
}

fn host_and_port(url: &str) -> Result<(String, String), WorldError> {
    let address = url
        .strip_prefix("http://")
        .unwrap_or(url)
        .trim_end_matches('/');
    address
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .ok_or_else(|| {
            WorldError(format!(
                "{url:?} does not name a port: expected for example http://127.0.0.1:8081"
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(directory: &Path, command: &[&str]) -> ProcessFleet {
        let mut settings = crate::config::load(None).unwrap();
        settings.state = directory.to_owned();
        settings.fleet.process.command = command.iter().map(|word| (*word).to_owned()).collect();
        settings.fleet.process.stop_timeout = Duration::from_secs(5);
        ProcessFleet::new(&settings)
    }

    const BLUE: Service = Service::Server(Color::Blue);

    #[tokio::test]
    async fn a_started_process_runs_until_it_is_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let fleet = fleet(directory.path(), &["sleep", "60"]);
        assert_eq!(fleet.inspect(BLUE).await.unwrap().1, None);
        fleet.start(Color::Blue, "v7").await.unwrap();
        assert_eq!(
            fleet.inspect(BLUE).await.unwrap(),
            (State::Running, Some("v7".to_owned()))
        );
        fleet.stop(BLUE).await.unwrap();
        assert!(matches!(
            fleet.inspect(BLUE).await.unwrap().0,
            State::Stopped(_)
        ));
    }

    #[tokio::test]
    async fn a_later_deployer_finds_and_stops_what_an_earlier_one_started() {
        let directory = tempfile::tempdir().unwrap();
        let command = ["sleep", "60"];
        let earlier = fleet(directory.path(), &command);
        earlier.start(Color::Blue, "v7").await.unwrap();
        let later = fleet(directory.path(), &command);
        assert_eq!(later.inspect(BLUE).await.unwrap().0, State::Running);
        later.stop(BLUE).await.unwrap();
        assert!(matches!(
            earlier.inspect(BLUE).await.unwrap().0,
            State::Stopped(_)
        ));
    }

    #[tokio::test]
    async fn an_exit_is_told_with_its_status_and_last_words() {
        let directory = tempfile::tempdir().unwrap();
        let fleet = fleet(
            directory.path(),
            &["sh", "-c", "echo no model for $MODEL_VERSION; exit 3"],
        );
        fleet.start(Color::Blue, "v7").await.unwrap();
        let record = fleet.record(BLUE).unwrap();
        // Only gone_by and inspect collect the exit status, so waiting must not swallow it.
        while ProcessFleet::alive(&record).is_some() {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            fleet.inspect(BLUE).await.unwrap().0,
            State::Stopped("exit status: 3".to_owned())
        );
        assert_eq!(fleet.logs(BLUE, 10).await, ["no model for v7"]);
    }

    #[tokio::test]
    async fn a_process_that_ignores_sigterm_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let mut fleet = fleet(
            directory.path(),
            &["sh", "-c", "trap '' TERM; while :; do sleep 1; done"],
        );
        fleet.settings.stop_timeout = Duration::from_millis(200);
        fleet.start(Color::Blue, "v7").await.unwrap();
        fleet.stop(BLUE).await.unwrap();
        assert!(matches!(
            fleet.inspect(BLUE).await.unwrap().0,
            State::Stopped(_)
        ));
    }

    #[tokio::test]
    async fn a_number_that_was_used_again_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let fleet = fleet(directory.path(), &["sleep", "60"]);
        let mut innocent = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let record = Record {
            pid: innocent.id().cast_signed(),
            started_at_tick: 1,
            version: None,
        };
        fs::create_dir_all(&fleet.directory).unwrap();
        fs::write(
            fleet.record_path(BLUE),
            serde_json::to_string(&record).unwrap(),
        )
        .unwrap();
        fleet.stop(BLUE).await.unwrap();
        assert!(
            innocent.try_wait().unwrap().is_none(),
            "a stranger was ended"
        );
        innocent.kill().unwrap();
        innocent.wait().unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let fleet = fleet(directory.path(), &["no-such-server"]);
        let error = fleet
            .start(Color::Blue, "v7")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("cannot start blue (no-such-server)"),
            "{error}"
        );
    }

    #[test]
    fn a_color_needs_a_port() {
        assert_eq!(
            host_and_port("http://127.0.0.1:8081").unwrap(),
            ("127.0.0.1".to_owned(), "8081".to_owned())
        );
        assert!(
            host_and_port("http://blue")
                .unwrap_err()
                .to_string()
                .contains("does not name a port")
        );
    }
}
