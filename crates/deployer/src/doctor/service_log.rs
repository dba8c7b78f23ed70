//! The last log lines of a service, for findings about it.

use crate::{
    doctor::finding::last_log_lines,
    ports::{Ports, Service},
};

/// Returns the last log lines of a service, after a semicolon; empty if it logged nothing.
pub(super) async fn last_lines(ports: &Ports, service: Service) -> String {
    last_log_lines(&ports.fleet.logs(service, 3).await)
}
