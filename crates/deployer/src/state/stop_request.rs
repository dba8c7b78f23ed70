//! Requests to the deployer at work: another command asks it to end its deployment.
//!
//! A request is a file of the state directory, so that it also reaches a deployer in another container or of another
//! user. The deployer at work accepts it by renaming it.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    pin::pin,
    task::{Poll, ready},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::interval;

use crate::state::{atomic_file, lock_holder::current_user};

/// How often the deployer at work looks for a request.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The command that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCommand {
    /// `deployer rollback`
    Rollback,
    /// `deployer abort`
    Abort,
}

/// A request to refuse the candidate, or to roll it back if it has the traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopRequest {
    /// The command that asks.
    pub command: StopCommand,
    /// The user who asks, as `user@host`.
    pub by: String,
    /// When.
    pub at: Timestamp,
}

impl StopRequest {
    /// A request by the current user at this time.
    #[must_use]
    pub fn new(command: StopCommand, at: Timestamp) -> Self {
        Self {
            command,
            by: current_user(),
            at,
        }
    }
}

impl StopCommand {
    /// The command as the user typed it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rollback => "rollback",
            Self::Abort => "abort",
        }
    }
}

impl fmt::Display for StopRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "`deployer {}` by {}",
            self.command.as_str(),
            self.by
        )
    }
}

/// The requests of one installation. There is at most one at a time: every request ends the deployment.
#[derive(Debug, Clone)]
pub struct StopRequests {
    directory: PathBuf,
}

impl StopRequests {
    /// The requests in the state directory `state`.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self {
            directory: state.join("requests"),
        }
    }

    fn sent(&self) -> PathBuf {
        self.directory.join("stop.json")
    }

    fn accepted(&self) -> PathBuf {
        self.directory.join("stop.accepted.json")
    }

    /// Sends a request.
    pub fn send(&self, request: &StopRequest) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let text = serde_json::to_string(request)?;
        atomic_file::replace(&self.sent(), &text)
    }

    /// Whether the deployer at work accepted this request.
    #[must_use]
    pub fn is_accepted(&self, request: &StopRequest) -> bool {
        let accepted = fs::read(self.accepted()).ok();
        accepted
            .and_then(|text| serde_json::from_slice(&text).ok())
            .as_ref()
            == Some(request)
    }

    /// Removes requests, also accepted ones, and creates their directory as the deployer's own. The holder of the lock calls
    /// this: what was sent before is not for it.
    pub fn open(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        for file in [self.sent(), self.accepted()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Resolves when a request arrives, and accepts it.
    ///
    /// It looks for a request at each poll. So a deployer that polls it first, and was frozen, finds the request before it
    /// does anything else.
    pub async fn received(&self) -> StopRequest {
        let mut ticks = pin!(interval(LOOK_EVERY));
        std::future::poll_fn(|context| {
            loop {
                if let Some(request) = self.accept() {
                    return Poll::Ready(request);
                }
                ready!(ticks.poll_tick(context));
            }
        })
        .await
    }

    /// Accepts the request that was sent, if there is one. An unreadable request counts, and one that cannot be renamed:
    /// someone wants to stop.
    fn accept(&self) -> Option<StopRequest> {
        if !self.sent().exists() {
            return None;
        }
        let text = fs::read(self.sent()).unwrap_or_default();
        let _ = fs::rename(self.sent(), self.accepted());
        let unknown = |_| StopRequest {
            command: StopCommand::Abort,
            by: "an unknown user".to_owned(),
            at: Timestamp::now(),
        };
        Some(serde_json::from_slice(&text).unwrap_or_else(unknown))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn request() -> StopRequest {
        StopRequest::new(StopCommand::Rollback, Timestamp::UNIX_EPOCH)
    }

    #[tokio::test]
    async fn request_is_accepted_once() {
        let state = tempfile::tempdir().unwrap();
        let requests = StopRequests::of(state.path());
        assert_eq!(requests.received().now_or_never(), None);
        requests.send(&request()).unwrap();
        assert!(!requests.is_accepted(&request()));
        assert_eq!(requests.received().await, request());
        assert!(requests.is_accepted(&request()));
        let other = StopRequest::new(StopCommand::Abort, Timestamp::UNIX_EPOCH);
        assert!(!requests.is_accepted(&other));
        assert_eq!(requests.received().now_or_never(), None);
        for _ in 0..2 {
            requests.open().unwrap();
            assert!(!requests.is_accepted(&request()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn request_is_found_within_the_interval() {
        let state = tempfile::tempdir().unwrap();
        let requests = StopRequests::of(state.path());
        let began = tokio::time::Instant::now();
        let (received, ()) = tokio::join!(requests.received(), async {
            tokio::time::sleep(Duration::from_millis(120)).await;
            requests.send(&request()).unwrap();
        });
        assert_eq!(received, request());
        assert!(began.elapsed() <= Duration::from_millis(120) + LOOK_EVERY);
    }

    #[test]
    fn damaged_request_stops_too() {
        let state = tempfile::tempdir().unwrap();
        let requests = StopRequests::of(state.path());
        requests.send(&request()).unwrap();
        fs::write(requests.sent(), "{").unwrap();
        let accepted = requests.accept().unwrap();
        assert_eq!(accepted.by, "an unknown user");
    }
}
