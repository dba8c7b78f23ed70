//! What a receiver is told.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::color::Color;

/// The kind of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A color or the router went down.
    Down,
    /// A color or the router is up again.
    Up,
    /// Traffic moved away from a color that is down, or could not move.
    Failover,
    /// The router itself fails requests.
    RouterErrors,
    /// The router itself fails no requests any more.
    RouterErrorsEnded,
    /// A command was interrupted, and no other command has completed it.
    Interrupted,
    /// A color serves, or its directory holds, something else than was promoted there.
    ReleaseChanged,
    /// A deployment ended: the candidate has the traffic.
    Promoted,
    /// A deployment ended: traffic never moved.
    Refused,
    /// A deployment ended or was reverted: the previous release has the traffic.
    RolledBack,
    /// A deployment ended: a person is needed.
    Halted,
    /// A person moved traffic.
    Switched,
    /// The idle color did not get the release back that it held before a deployment that failed.
    NotRestored,
    /// A deployment waits for approval.
    ApprovalAwaited,
    /// A test.
    Test,
}

impl Kind {
    /// The name that a receiver sees.
    pub(super) fn name(self) -> String {
        let name = json!(self);
        name.as_str().unwrap_or_default().to_owned()
    }
}

/// A notification: an alert, or the end of a deployment. docs/events.md describes what a webhook receives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Identifies the notification, so that a receiver recognizes a repetition. Identifiers begin with the time, so
    /// their order is the order in time.
    pub id: String,
    /// The kind.
    pub kind: Kind,
    /// When it happened, which may be long before it is delivered.
    pub at: Timestamp,
    /// The color; `None` if it concerns none.
    pub color: Option<Color>,
    /// One sentence.
    pub text: String,
    /// The identifier of the deployment that ended.
    pub deployment: Option<String>,
    /// The version that was deployed, or that the color serves now.
    pub version: Option<String>,
    /// Why the deployment ended.
    pub reason: Option<String>,
    /// The page of the report, on the host in `by`.
    pub report: Option<PathBuf>,
    /// The page on which a person can decide.
    #[serde(default)]
    pub link: Option<String>,
    /// The trace of the deployment.
    #[serde(default)]
    pub trace: Option<String>,
    /// The SHA-256 of the newest line of the history; `None` without a line.
    #[serde(default)]
    pub history: Option<String>,
    /// The address of the router.
    pub router: String,
    /// Who did it, as `user@host`.
    pub by: String,
}

impl Notification {
    /// The identifier of what happened at `at`.
    pub(super) fn id_of(at: Timestamp, kind: Kind, color: Option<Color>) -> String {
        let (at, kind) = (at.strftime("%Y%m%dT%H%M%S.%9fZ"), kind.name());
        match color {
            Some(color) => format!("{at}-{kind}-{color}"),
            None => format!("{at}-{kind}"),
        }
    }

    /// The request body for a webhook.
    pub(super) fn for_webhook(&self) -> Value {
        let mut body = json!(self);
        body["schema"] = json!(1);
        body
    }

    /// The request body for Slack.
    pub(super) fn for_slack(&self) -> Value {
        let Self {
            kind,
            text,
            router,
            by,
            ..
        } = self;
        json!({"text": format!("*{}* {text} ({router}, {by})", kind.name())})
    }
}
