//! nginx: flag files and control port, configuration, and the logs.

pub(super) mod configuration;
pub(crate) mod control_port;
mod cuts;
mod error_log;
pub(crate) mod flags;
#[cfg(test)]
mod generated_logs;
pub(super) mod log_file;
pub(super) mod request_log;
pub(crate) mod router;
