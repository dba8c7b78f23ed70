//! Servers and nginx as processes on this machine. They outlive the deployer; the state directory has a record
//! of each.

mod program;
mod record;
mod router_files;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rustix::process::{Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::Instant,
};

use crate::{
    adapters::{
        process::{
            program::{find_program, run},
            record::Record,
        },
        version,
    },
    color::Color,
    config::{ProcessSettings, Settings},
    doctor::finding::{Finding, last_log_lines},
    kill_point,
    ports::{Fleet, FleetDiagnosis, PortError, Service, ServiceState},
    state::atomic_file,
};

/// Starts processes, and finds those of an earlier deployer.
pub(super) struct ProcessFleet {
    settings: ProcessSettings,
    nginx_configuration: Option<PathBuf>,
    model: String,
    model_root: Option<PathBuf>,
    blue_url: String,
    green_url: String,
    directory: PathBuf,
    /// Processes of this deployer, which must collect their exit status.
    children: Mutex<HashMap<&'static str, Child>>,
}

impl ProcessFleet {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.fleet.process.clone(),
            nginx_configuration: settings.router.configuration.clone(),
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
        let path = self.record_path(service);
        let read = || serde_json::from_str(&fs::read_to_string(&path).ok()?).ok();
        let record: Option<Record> = read();
        if record
            .as_ref()
            .is_some_and(|record| record.alive().is_some())
        {
            return record;
        }
        // A killed deployer may have left a process without a record.
        Record::find(&path).or(record)
    }

    fn spawn(
        &self,
        service: Service,
        version: Option<&str>,
        mut command: Command,
    ) -> Result<(), PortError> {
        let program = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let message = |doing: &str, error: &io::Error| {
            let name = service.name();
            format!("cannot {doing} {name} ({program}): {error}")
        };
        let failed =
            |doing: &str, error: io::Error| PortError::of_file(&error, message(doing, &error));
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
        let mut child = command
            .env(record::VARIABLE, self.record_path(service))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            // Ctrl-C at the terminal is meant for the deployer only.
            .process_group(0)
            .spawn()
            .map_err(|error| PortError::NoProgram(message("start", &error)))?;
        kill_point::pass(format_args!("after starting {}", service.name()));
        let pid = child.id().unwrap_or_default().cast_signed();
        let record = Record::of(pid, version);
        let written = serde_json::to_string(&record)
            .map_err(io::Error::from)
            .and_then(|text| atomic_file::replace(&self.record_path(service), &text));
        if written.is_err() {
            // A process without a record might never be found again.
            let _ = child.start_kill();
        }
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(service.name(), child);
        written.map_err(|error| failed("write down the process of", error))
    }

    /// Collects the exit status if the process is a child that has exited.
    fn exit_status(&self, service: Service) -> Option<String> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let status = children.get_mut(service.name())?.try_wait().ok()??;
        Some(status.to_string())
    }

    /// Describes how a process ended, as far as this deployer can know.
    async fn end_of(&self, service: Service, record: &Record) -> String {
        const PAUSE: Duration = Duration::from_millis(5);

        // A process is dead a moment before its parent can collect it, while its threads end.
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.is_ours(service) && Instant::now() < deadline {
            if let Some(status) = self.exit_status(service) {
                return status;
            }
            tokio::time::sleep(PAUSE).await;
        }
        format!("process {} is gone", record.pid)
    }

    fn is_ours(&self, service: Service) -> bool {
        let children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        children.contains_key(service.name())
    }

    /// Waits until the process has ended. Returns false if it is alive at the deadline.
    async fn gone_by(&self, service: Service, record: &Record, deadline: Instant) -> bool {
        const PAUSE: Duration = Duration::from_millis(20);
        loop {
            let _ = self.exit_status(service);
            if record.alive().is_none() {
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
    async fn start_router(&self) -> Result<(), PortError> {
        if self
            .record(Service::Router)
            .is_some_and(|record| record.alive().is_some())
        {
            return Ok(());
        }
        let prefix = &self.settings.nginx_prefix;
        let configuration = self.nginx_configuration.as_ref().ok_or_else(|| {
            PortError::Invalid(
                "the router cannot be started: router.configuration is not set".to_owned(),
            )
        })?;
        router_files::prepare(prefix)?;
        // As root, nginx would run its workers as another user. A worker that cannot search the flag directory
        // sends all traffic to blue without an error.
        let user = if rustix::process::geteuid().is_root() {
            " user root;"
        } else {
            ""
        };
        let mut command = Command::new(find_program(&self.settings.nginx));
        command
            // Until nginx has read its configuration, it logs where only root may write.
            .args(["-e", "stderr"])
            .arg("-p")
            .arg(prefix)
            .arg("-c")
            .arg(configuration)
            .arg("-g")
            .arg(format!("daemon off;{user}"));
        self.spawn(Service::Router, None, command)
    }

    async fn start(&self, color: Color, version: &str) -> Result<(), PortError> {
        let service = Service::Server(color);
        self.stop(service).await?;
        let Some((program, arguments)) = self.settings.command.split_first() else {
            return Err(PortError::Invalid(
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

    async fn stop(&self, service: Service) -> Result<(), PortError> {
        let Some(record) = self.record(service) else {
            return Ok(());
        };
        // SIGQUIT lets nginx finish its requests.
        let gentle = match service {
            Service::Server(_) => Signal::TERM,
            Service::Router => Signal::QUIT,
        };
        let bounds = [
            (gentle, self.settings.stop_timeout),
            (Signal::KILL, Duration::from_secs(5)),
        ];
        for (signal, bound) in bounds {
            let Some(pid) = record.alive() else {
                return Ok(());
            };
            // The process may end between the check and the signal.
            let _ = kill_process(pid, signal);
            if self.gone_by(service, &record, Instant::now() + bound).await {
                return Ok(());
            }
        }
        Err(PortError::TimedOut(format!(
            "{} (process {}) does not end, not even by SIGKILL",
            service.name(),
            record.pid
        )))
    }

    async fn inspect(&self, service: Service) -> Result<(ServiceState, Option<String>), PortError> {
        let Some(record) = self.record(service) else {
            return Ok((
                ServiceState::Stopped("it was never started".to_owned()),
                None,
            ));
        };
        let state = match record.alive() {
            Some(_) => ServiceState::Running,
            None => ServiceState::Stopped(self.end_of(service, &record).await),
        };
        Ok((state, record.version))
    }

    /// The user manages release directories.
    async fn prune(&self, _keep: usize) -> Result<(), PortError> {
        Ok(())
    }
}

#[async_trait]
impl FleetDiagnosis for ProcessFleet {
    async fn diagnose(&self) -> Vec<Finding> {
        const ADVICE: &str = "install nginx 1.22 or later, or set fleet.process.nginx to it";
        // As in nginx.conf.
        const OLDEST: (u64, u64) = (1, 22);

        let nginx = find_program(&self.settings.nginx);
        let version = match run(Command::new(&nginx).arg("-v")).await {
            Ok(output) if version::is_older(&output, OLDEST) => {
                let text = format!("{output} is too old");
                return vec![Finding::wrong("nginx", text, ADVICE)];
            }
            Ok(output) => Finding::fine("nginx", output),
            Err(problem) => return vec![Finding::wrong("nginx", problem, ADVICE)],
        };
        let Some(configuration) = &self.nginx_configuration else {
            return vec![version];
        };
        let mut test = Command::new(&nginx);
        test.args(["-t", "-q", "-e", "stderr"])
            .arg("-p")
            .arg(&self.settings.nginx_prefix)
            .arg("-c")
            .arg(configuration);
        let shown = configuration.display().to_string();
        let tested = match run(&mut test).await {
            Ok(_) => Finding::fine("nginx", format!("{shown} is valid")),
            Err(problem) => {
                // Log lines of a stopped router are reported with the router.
                let words = match self.record(Service::Router).and_then(|it| it.alive()) {
                    Some(_) => last_log_lines(&self.logs(Service::Router, 3).await),
                    None => String::new(),
                };
                Finding::wrong(
                    "nginx",
                    format!("{shown} is invalid: {problem}{words}"),
                    "correct that file; a running router keeps the files that it has read",
                )
            }
        };
        vec![version, tested]
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

    async fn stop_timeout(&self, color: Color) -> Option<Duration> {
        let record = self.record(Service::Server(color))?;
        record.alive().map(|_| self.settings.stop_timeout)
    }
}

fn host_and_port(url: &str) -> Result<(String, String), PortError> {
    let address = url
        .strip_prefix("http://")
        .unwrap_or(url)
        .trim_end_matches('/');
    address
        .rsplit_once(':')
        .filter(|(_, port)| port.parse::<u16>().is_ok())
        // The server listens on an address, not on a name.
        .map(|(host, port)| (host.replace("localhost", "127.0.0.1"), port.to_owned()))
        .ok_or_else(|| {
            PortError::Invalid(format!(
                "{url:?} does not name a port: expected for example http://127.0.0.1:8081"
            ))
        })
}
