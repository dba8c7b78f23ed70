//! Starts nginx, also where workers of an earlier nginx still listen.

use rustix::process::{Signal, kill_process};
use tokio::{process::Command, time::Instant};

use crate::{
    adapters::process::{
        PAUSE, ProcessFleet, await_free_ports,
        program::{find_program, run},
        record::{Files, Record},
        router_files, shown,
    },
    ports::{PortError, Service},
};

impl ProcessFleet {
    /// Starts nginx. `earlier` is the nginx before it, whose workers outlive a SIGKILL of their master.
    ///
    /// Such workers serve, but no program manages them. They stop listening at once, and finish their requests while the
    /// new nginx serves.
    pub(super) async fn replace_router(&self, earlier: Option<Record>) -> Result<(), PortError> {
        let command = self.router_command()?;
        let workers = earlier.map(|record| {
            let workers = record.others(&self.files(Service::Router));
            (record, workers)
        });
        let Some((record, workers)) = workers.filter(|(_, workers)| !workers.is_empty()) else {
            await_free_ports(&self.router_urls).await?;
            return self.spawn(Service::Router, None, command);
        };
        // They must go on if no nginx can follow.
        let test = run(self.router_command()?.args(["-t", "-q"])).await;
        test.map_err(|problem| {
            PortError::Invalid(format!(
                "the router has lost its master process, and cannot be started again: {problem}; its workers serve until \
                 `deployer down`: {}",
                shown(workers.iter().copied())
            ))
        })?;
        for pid in workers {
            let _ = kill_process(pid, Signal::QUIT);
        }
        await_free_ports(&self.router_urls).await?;
        self.spawn(Service::Router, None, command)?;
        // Their log was put away when the new nginx got its own.
        let files = Files {
            log: self.previous_log_path(Service::Router),
            ..self.files(Service::Router)
        };
        self.end_workers(&record, &files).await;
        Ok(())
    }

    fn router_command(&self) -> Result<Command, PortError> {
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
        Ok(command)
    }

    /// Lets workers without a master finish their requests, and kills those that hang.
    async fn end_workers(&self, record: &Record, files: &Files) {
        let deadline = Instant::now() + self.settings.stop_timeout;
        while !record.others(files).is_empty() {
            if Instant::now() >= deadline {
                for pid in record.others(files) {
                    let _ = kill_process(pid, Signal::KILL);
                }
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}
