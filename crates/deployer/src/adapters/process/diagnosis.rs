//! What a person wants to know about nginx and the processes.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use procfs::{Current as _, Uptime, process::Process};
use rustix::process::Pid;
use tokio::process::Command;

use crate::{
    adapters::{
        nginx::configuration,
        process::{
            ProcessFleet,
            program::{find_program, run},
        },
        version,
    },
    color::Color,
    doctor::finding::{Finding, last_log_lines},
    ports::{ACTIVITY_LINES, Activity, FleetDiagnosis, Service},
};

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

    async fn diagnose_offline(&self) -> Vec<Finding> {
        const TOPIC: &str = "server";

        let command = &self.settings.command;
        let advice = "let fleet.process.command name the server's program and its arguments";
        let Some(program) = command.first() else {
            return vec![Finding::wrong(
                TOPIC,
                "fleet.process.command is empty",
                advice,
            )];
        };
        let found = find_program(Path::new(program));
        if !found.is_file() {
            let text = format!("fleet.process.command: there is no program {program}");
            return vec![Finding::wrong(TOPIC, text, advice)];
        }
        vec![Finding::fine(
            TOPIC,
            format!("it is started by {}", found.display()),
        )]
    }

    async fn configured_stop_timeout(&self, _color: Color) -> Option<Duration> {
        Some(self.settings.stop_timeout)
    }

    async fn router_difference(&self) -> Option<String> {
        let record = self.record(Service::Router)?;
        let started = record.others(&self.files(Service::Router));
        // A worker that shuts down was started with earlier files.
        let started = started
            .into_iter()
            .filter_map(start_of_active_worker)
            .min()?;
        let changed = configuration::changed_since(self.nginx_configuration.as_ref()?, started)?;
        let pid = record.pid;
        Some(format!(
            "{changed} changed since nginx read it; `kill -HUP {pid}` makes nginx read it again"
        ))
    }

    async fn logs(&self, service: Service, lines: usize) -> Vec<String> {
        let bytes = end_of_file(&self.log_path(service)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }

    async fn activity(&self, color: Color) -> Activity {
        let service = Service::Server(color);
        let record = self.record(service);
        let pids = record.as_ref().map_or_else(Vec::new, |record| {
            let others = record.others(&self.files(service));
            record.alive().into_iter().chain(others).collect()
        });
        let used: Vec<(u64, u64)> = pids.into_iter().filter_map(used).collect();
        Activity {
            log: self.logs(service, ACTIVITY_LINES).await,
            disk_read: used
                .iter()
                .map(|(read, _)| *read)
                .reduce(|sum, read| sum + read),
            memory: used
                .iter()
                .map(|(_, memory)| *memory)
                .reduce(|sum, memory| sum + memory),
            restarts: None,
        }
    }

    async fn stop_timeout(&self, color: Color) -> Option<Duration> {
        let record = self.record(Service::Server(color))?;
        record.alive().map(|_| self.settings.stop_timeout)
    }
}

/// The last bytes of a log. A server may log gigabytes.
fn end_of_file(path: &Path) -> io::Result<Vec<u8>> {
    const MAX_BYTES: u64 = 256 << 10;

    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The bytes that a process has read from disks, and those of its memory; `None` if it has ended.
fn used(pid: Pid) -> Option<(u64, u64)> {
    let process = Process::new(pid.as_raw_pid()).ok()?;
    // Another user's process hides what it reads.
    let read = process.io().map_or(0, |io| io.read_bytes);
    Some((read, process.statm().ok()?.resident * procfs::page_size()))
}

/// When a worker of nginx began; `None` if it is shutting down.
fn start_of_active_worker(pid: Pid) -> Option<SystemTime> {
    let process = Process::new(pid.as_raw_pid()).ok()?;
    let title = process.cmdline().ok()?.join(" ");
    let ticks = process.stat().ok()?.starttime;
    if title.contains("shutting down") {
        return None;
    }
    let since_boot = Duration::from_secs_f64(ticks as f64 / procfs::ticks_per_second() as f64);
    let uptime = Duration::from_secs_f64(Uptime::current().ok()?.uptime);
    Some(SystemTime::now() - uptime.saturating_sub(since_boot))
}
