//! The last known state of one color.

use tokio::time::Instant;

use crate::{
    color::Color,
    config::Settings,
    monitor::{health::HealthTracker, standby::ColorMemory},
    release::Health,
};

pub(crate) struct MonitoredColor {
    pub(crate) tracker: HealthTracker,
    /// Its last health answer.
    health: Health,
    /// Why its last check failed; `None` if it passed.
    pub(crate) trouble: Option<String>,
    /// When it was last restarted.
    pub(crate) restarted: Option<Instant>,
    /// When its fit flag could last not be set or removed.
    pub(crate) flag_failed: Option<Instant>,
}

impl MonitoredColor {
    pub(crate) fn new(settings: &Settings, memory: &ColorMemory) -> Self {
        Self {
            tracker: settings.monitor.health_tracker(!memory.down),
            health: Health::default(),
            trouble: None,
            restarted: None,
            flag_failed: None,
        }
    }

    pub(crate) fn record(&mut self, answer: Result<Health, String>) {
        match answer {
            Ok(health) => (self.health, self.trouble) = (health, None),
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    /// Its last health answer, if its last check passed.
    pub(crate) fn health(&self) -> Option<&Health> {
        self.trouble.is_none().then_some(&self.health)
    }

    /// Its last health answer, also if a later check failed.
    pub(crate) fn last_health(&self) -> &Health {
        &self.health
    }

    pub(crate) fn is_well(&self) -> bool {
        self.tracker.is_up() && self.trouble.is_none()
    }

    pub(crate) fn version(&self) -> &str {
        self.health.model_version.as_deref().unwrap_or("unknown")
    }

    /// Formats the version to follow a color's name.
    pub(crate) fn shown_version(&self) -> String {
        let version = self.health.model_version.as_ref();
        version.map_or_else(String::new, |version| format!(" ({version})"))
    }
}

pub(crate) fn index(color: Color) -> usize {
    match color {
        Color::Blue => 0,
        Color::Green => 1,
    }
}
