//! The services: the two servers and the router.

use std::time::Duration;

use async_trait::async_trait;

use crate::{
    color::Color, doctor::finding::Finding, ports::error::PortError, release::HeldRelease,
};

/// A service of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// A model server.
    Server(Color),
    /// nginx.
    Router,
}

impl Service {
    /// The service's name in the Compose file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Server(color) => color.name(),
            Self::Router => "router",
        }
    }
}

/// The state of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    /// It runs.
    Running,
    /// It does not run, for this reason.
    Stopped(String),
    /// It is paused, as this text describes: it answers nothing, and keeps its port.
    Paused(String),
    /// Something else runs it, and this deployer cannot tell.
    Unmanaged,
}

/// What a server does while it starts, as far as it can be seen from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Activity {
    /// Its last log lines, oldest first.
    pub log: Vec<String>,
    /// Bytes that it has read from disks; `None` if this deployer cannot tell.
    pub disk_read: Option<u64>,
    /// Bytes of memory that it uses; `None` if this deployer cannot tell.
    pub memory: Option<u64>,
    /// How often it ended and was started again; `None` if this deployer cannot tell.
    pub restarts: Option<u64>,
}

/// How many log lines of a server show what it does.
pub(crate) const ACTIVITY_LINES: usize = 50;

/// Starts and stops services.
#[async_trait]
pub trait Fleet: FleetDiagnosis {
    /// Starts the router if it does not run.
    async fn start_router(&self) -> Result<(), PortError>;

    /// Fetches what `color` needs to run `version`, such as an image. Changes nothing that runs, and nothing that would be
    /// started.
    async fn prepare(&self, _color: Color, _version: &str) -> Result<(), PortError> {
        Ok(())
    }

    /// Replaces what `color` runs by `version`. The server may still be unhealthy when this returns.
    async fn start(&self, color: Color, version: &str) -> Result<(), PortError>;

    /// Starts a release again that `color` held before, as [`start`](Self::start) does.
    async fn start_again(&self, color: Color, release: &HeldRelease) -> Result<(), PortError> {
        self.start(color, &release.version).await
    }

    /// Returns the image that was last chosen for `color`; `None` if this fleet has no images, or none was chosen.
    fn image(&self, _color: Color) -> Option<String> {
        None
    }

    /// Stops a service and lets it finish its requests within a time limit. Succeeds if the service does not
    /// run.
    async fn stop(&self, service: Service) -> Result<(), PortError>;

    /// Stops both servers at the same time. Returns what failed.
    async fn stop_servers(&self) -> Vec<PortError> {
        let [blue, green] = Color::BOTH.map(|color| self.stop(Service::Server(color)));
        let (blue, green) = tokio::join!(blue, green);
        blue.err().into_iter().chain(green.err()).collect()
    }

    /// Waits until no command runs that this deployer began and no longer waits for. Bounded in time.
    async fn await_abandoned(&self) {}

    /// Returns the state of a service, and for a server the version that was last started there.
    async fn inspect(&self, service: Service) -> Result<(ServiceState, Option<String>), PortError>;

    /// Starts the monitor again if [`stop_monitor`](Self::stop_monitor) stopped it.
    async fn start_monitor(&self) -> Result<(), PortError> {
        Ok(())
    }

    /// Stops the monitor, if it is a service of this fleet.
    async fn stop_monitor(&self) -> Result<(), PortError> {
        Ok(())
    }

    /// Removes the artifacts of earlier releases that no service uses, except the `keep` newest.
    async fn prune(&self, keep: usize) -> Result<(), PortError>;
}

/// Tells a person more about the services. What cannot be read is left out.
#[async_trait]
pub trait FleetDiagnosis: Send + Sync {
    /// Checks what runs the services: versions, configuration, and how containers exited.
    async fn diagnose(&self) -> Vec<Finding>;

    /// Returns how the router's files differ from those with which it runs; `None` if they do not, or this deployer cannot
    /// tell.
    async fn router_difference(&self) -> Option<String> {
        None
    }

    /// Returns the last log lines of a service, oldest first.
    async fn logs(&self, service: Service, lines: usize) -> Vec<String>;

    /// Returns what the server of a color does while it starts.
    async fn activity(&self, color: Color) -> Activity {
        Activity {
            log: self.logs(Service::Server(color), ACTIVITY_LINES).await,
            ..Activity::default()
        }
    }

    /// Checks the same as [`diagnose`](Self::diagnose) as far as files tell it: no engine and no service is asked.
    async fn diagnose_offline(&self) -> Vec<Finding> {
        Vec::new()
    }

    /// Returns how long the server of a color may take to stop by its configuration; `None` if there is none.
    async fn configured_stop_timeout(&self, _color: Color) -> Option<Duration> {
        None
    }

    /// Returns how long the server of a color may take to stop before it is killed; `None` if it does not run or this
    /// deployer cannot tell.
    async fn stop_timeout(&self, _color: Color) -> Option<Duration> {
        None
    }
}
