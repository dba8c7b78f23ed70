//! Servers and nginx as processes on this machine. They outlive the deployer; the state directory has a record
//! of each.

mod diagnosis;
pub(crate) mod program;
mod record;
mod router;
pub(crate) mod router_files;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io,
    path::PathBuf,
    process::Stdio,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    process::{Child, Command},
    time::Instant,
};

pub(super) use crate::adapters::process::record::Record;
use crate::{
    adapters::{listeners, process::record::Files},
    color::Color,
    config::{ProcessSettings, Settings},
    kill_point,
    ports::{Fleet, PortError, Service, ServiceState},
    state::atomic_file,
};

/// Time between two looks at processes that are about to end.
const PAUSE: Duration = Duration::from_millis(20);

/// Starts processes, and finds those of an earlier deployer.
pub(super) struct ProcessFleet {
    settings: ProcessSettings,
    nginx_configuration: Option<PathBuf>,
    model: String,
    model_root: Option<PathBuf>,
    blue_url: String,
    green_url: String,
    /// The addresses of the router for clients and for deployers.
    router_urls: [String; 2],
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
            router_urls: [settings.router.url.clone(), settings.router.control.clone()],
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

    /// The log of the process before.
    fn previous_log_path(&self, service: Service) -> PathBuf {
        self.log_path(service).with_extension("previous.log")
    }

    fn record(&self, service: Service) -> Option<Record> {
        let files = self.files(service);
        let read = || serde_json::from_str(&fs::read_to_string(&files.record).ok()?).ok();
        let record: Option<Record> = read();
        if record
            .as_ref()
            .is_some_and(|record| record.alive().is_some())
        {
            return record;
        }
        // A killed deployer may have left a process without a record.
        Record::find(&files).or(record)
    }

    fn files(&self, service: Service) -> Files {
        Files {
            record: self.record_path(service),
            log: self.log_path(service),
        }
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
            fs::rename(&log, self.previous_log_path(service))
                .map_err(|error| failed("put away the log of", error))?;
        }
        let output = File::create(&log).map_err(|error| failed("make a log for", error))?;
        let errors = output
            .try_clone()
            .map_err(|error| failed("make a log for", error))?;
        let child = command
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
            let _ = Pid::from_raw(pid).map(|pid| kill_process_group(pid, Signal::KILL));
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

    /// Sends a signal to the recorded process, and then to what is left of its group. Returns whether all have ended in
    /// time.
    ///
    /// The recorded process goes first: it may need the others to finish its requests.
    async fn end_group(
        &self,
        service: Service,
        record: &Record,
        signal: Signal,
        bound: Duration,
    ) -> bool {
        let deadline = Instant::now() + bound;
        if let Some(pid) = record.alive() {
            // The process may end between the check and the signal.
            let _ = kill_process(pid, signal);
        }
        self.gone_by(service, record, deadline).await
            && self.others_gone_by(service, record, signal, deadline).await
    }

    /// Sends a signal to each other process of the group, and waits until they have ended. Returns false if one is alive
    /// at the deadline.
    async fn others_gone_by(
        &self,
        service: Service,
        record: &Record,
        signal: Signal,
        deadline: Instant,
    ) -> bool {
        let mut signaled = HashSet::new();
        loop {
            let others = record.others(&self.files(service));
            if others.is_empty() {
                return true;
            }
            for pid in others {
                if signaled.insert(pid) {
                    let _ = kill_process(pid, signal);
                }
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Waits until the process has ended. Returns false if it is alive at the deadline.
    async fn gone_by(&self, service: Service, record: &Record, deadline: Instant) -> bool {
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
        let record = self.record(Service::Router);
        if record.as_ref().is_some_and(|it| it.alive().is_some()) {
            return Ok(());
        }
        self.replace_router(record).await
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
        await_free_ports(std::slice::from_ref(url)).await?;
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
            if self.end_group(service, &record, signal, bound).await {
                return Ok(());
            }
        }
        let others = record.others(&self.files(service));
        let pids = record.alive().into_iter().chain(others);
        Err(PortError::TimedOut(format!(
            "{} ({}) does not end, not even by SIGKILL",
            service.name(),
            shown(pids)
        )))
    }

    async fn inspect(&self, service: Service) -> Result<(ServiceState, Option<String>), PortError> {
        let Some(record) = self.record(service) else {
            return Ok((
                ServiceState::Stopped("it was never started".to_owned()),
                None,
            ));
        };
        if record.alive().is_some() {
            return Ok((ServiceState::Running, record.version));
        }
        let mut how = self.end_of(service, &record).await;
        let others = record.others(&self.files(service));
        if !others.is_empty() {
            how = format!("{how}; what it started still runs: {}", shown(others));
        }
        Ok((ServiceState::Stopped(how), record.version))
    }

    /// The user manages release directories.
    async fn prune(&self, _keep: usize) -> Result<(), PortError> {
        Ok(())
    }
}

/// Waits until no process listens at these addresses. Fails if one still does after two seconds.
///
/// The kernel closes the sockets of an ended process a moment later. While another program listens, its answers would look
/// like those of the process that is about to start, until that one gives up.
async fn await_free_ports(urls: &[String]) -> Result<(), PortError> {
    const PATIENCE: Duration = Duration::from_secs(2);

    let deadline = Instant::now() + PATIENCE;
    loop {
        let taken: Vec<String> = urls
            .iter()
            .filter_map(|url| Some(format!("{url} is taken by {}", listeners::at(url)?)))
            .collect();
        if taken.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(PortError::Other(taken.join("; ")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Lists processes for a person.
fn shown(pids: impl IntoIterator<Item = Pid>) -> String {
    let mut pids: Vec<i32> = pids.into_iter().map(Pid::as_raw_pid).collect();
    pids.sort_unstable();
    let pids: Vec<String> = pids.iter().map(|pid| format!("process {pid}")).collect();
    pids.join(", ")
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
