use std::time::Duration;

use clap::Args;

use crate::config::parsers::seconds;

/// How the server stops.
#[derive(Debug, Clone, Copy, Args)]
pub struct Drain {
    /// After SIGTERM: how long to serve new requests while /health returns 503
    #[arg(
        long = "grace-seconds",
        env = "GRACE_SECONDS",
        default_value = "5",
        value_name = "SECONDS",
        value_parser = seconds
    )]
    pub grace: Duration,

    /// After that: how long requests in flight may take before they are cut
    #[arg(
        long = "hard-stop-seconds",
        env = "HARD_STOP_SECONDS",
        default_value = "30",
        value_name = "SECONDS",
        value_parser = seconds
    )]
    pub hard_stop: Duration,
}
