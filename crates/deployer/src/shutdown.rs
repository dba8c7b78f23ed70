//! The signals that end the deployer.

use tokio::signal::unix::{SignalKind, signal};

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
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if is_handled(&status, kind.as_raw_value())
        && let Ok(mut signals) = signal(kind)
    {
        signals.recv().await;
        return;
    }
    std::future::pending::<()>().await;
}

/// Returns whether a process with this status (`proc_pid_status(5)`) does not ignore the signal.
fn is_handled(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0) & (1 << (signal - 1)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signal_ignored_by_parent_process_is_not_handled() {
        let status = "Name:\tdeployer\nSigIgn:\t0000000000001001\nSigCgt:\t0000000000004000\n";
        let hangup = SignalKind::hangup().as_raw_value();
        let terminate = SignalKind::terminate().as_raw_value();
        assert!(!is_handled(status, hangup));
        assert!(is_handled(status, terminate));
        assert!(is_handled("", hangup));
    }
}
