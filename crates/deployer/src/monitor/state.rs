//! The state of the monitor that survives a restart.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    adapters::notify::{Kind, Notification},
    color::Color,
    monitor::{color::index, standby::ColorMemory},
    state::atomic_file,
};

/// What was alerted or done and must not be repeated.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct MonitorState {
    /// Blue and green.
    pub(crate) colors: [ColorMemory; 2],
    /// The router is down, and an alert was sent.
    pub(crate) router_down: bool,
    /// The router itself fails requests, and an alert was sent.
    pub(crate) router_errors: bool,
    /// How blue and green differ from what was promoted there, and an alert was sent.
    pub(crate) changed: [Vec<String>; 2],
    /// The interrupted command that an alert was sent about.
    pub(crate) interrupted: Option<String>,
    /// When this state was written. Older alerts are part of it.
    pub(crate) saved: Timestamp,
}

impl MonitorState {
    /// Reads the state of an earlier monitor. Without it, everything is taken to be up.
    pub(crate) fn read(state: &Path) -> Self {
        let text = fs::read_to_string(path(state)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Adds an alert that an earlier monitor queued. It may have been killed before it saved its state.
    pub(crate) fn add(&mut self, alert: &Notification) {
        if alert.at <= self.saved {
            return;
        }
        match alert.kind {
            Kind::Down => self.set_down(alert.color, true),
            Kind::Up => self.set_down(alert.color, false),
            Kind::RouterErrors => self.router_errors = true,
            Kind::RouterErrorsEnded => self.router_errors = false,
            _ => {}
        }
    }

    /// Sets whether a color, or with `None` the router, is down.
    pub(crate) fn set_down(&mut self, color: Option<Color>, down: bool) {
        match color {
            Some(color) => self.colors[index(color)].down = down,
            None => self.router_down = down,
        }
    }

    pub(crate) fn write(&self, state: &Path) -> io::Result<()> {
        atomic_file::replace(&path(state), &serde_json::to_string(self)?)
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("monitor.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::notify::test_notification;

    #[test]
    fn undelivered_alert_counts_only_if_state_is_older() {
        let alert = test_notification(5);
        for (saved, known) in [(4, true), (5, false), (6, false)] {
            let mut state = MonitorState {
                saved: Timestamp::from_nanosecond(saved).unwrap(),
                ..MonitorState::default()
            };
            state.add(&alert);
            assert_eq!(state.router_down, known, "{saved}");
        }
    }
}
