//! What ends a deployer: signals, and requests of other commands.

use std::fmt;

use procfs::process::Process;
use tokio::signal::unix::{SignalKind, signal};

use crate::state::operator_request::{OperatorRequest, OperatorRequests};

/// Why a deployer should stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// It received a signal.
    Signal,
    /// Another command asks for it.
    Request(OperatorRequest),
}

impl fmt::Display for Stop {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal => formatter.write_str("the deployer received a stop signal"),
            Self::Request(request) => write!(formatter, "stopped by {request}"),
        }
    }
}

/// Resolves when the deployer should stop. It looks for requests first.
pub(crate) async fn stopped(requests: &OperatorRequests) -> Stop {
    tokio::select! {
        biased;
        request = requests.stop_request() => Stop::Request(request),
        () = shutdown() => Stop::Signal,
    }
}

/// Resolves on SIGINT (Ctrl-C), SIGTERM, or SIGHUP (the terminal closes).
pub(crate) async fn shutdown() {
    tokio::select! {
        () = received(SignalKind::interrupt()) => (),
        () = received(SignalKind::terminate()) => (),
        () = received(SignalKind::hangup()) => (),
    }
}

/// Resolves when the process receives the signal. Never resolves if the parent process ignored the signal, as
/// `nohup` does.
async fn received(kind: SignalKind) {
    let status = Process::myself().and_then(|process| process.status());
    // Without /proc, no signal counts as ignored.
    let ignored = status.map_or(0, |status| status.sigign);
    if is_handled(ignored, kind.as_raw_value())
        && let Ok(mut signals) = signal(kind)
    {
        signals.recv().await;
        return;
    }
    std::future::pending::<()>().await;
}

/// Returns whether a signal is not in a mask of ignored signals (`SigIgn` in `proc_pid_status(5)`).
fn is_handled(ignored: u64, signal: i32) -> bool {
    ignored & (1 << (signal - 1)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_ignored_by_parent_process_is_not_handled() {
        let hangup = SignalKind::hangup().as_raw_value();
        let terminate = SignalKind::terminate().as_raw_value();
        assert!(!is_handled(0x1001, hangup));
        assert!(is_handled(0x1001, terminate));
        assert!(is_handled(0, hangup));
    }
}
