//! One color, as it was last seen.

use tokio::time::Instant;

use crate::{
    color::Color,
    config::Settings,
    monitor::{Kept, Pulse},
    release::Health,
};

pub(super) struct Watched {
    pub(super) pulse: Pulse,
    /// What it last told of itself.
    health: Health,
    /// Why its last check failed; none when it passed.
    pub(super) trouble: Option<String>,
    /// When it was last started again.
    pub(super) restarted: Option<Instant>,
}

impl Watched {
    pub(super) fn new(settings: &Settings, kept: &Kept) -> Self {
        Self {
            pulse: settings.monitor.pulse(!kept.down),
            health: Health::default(),
            trouble: None,
            restarted: None,
        }
    }

    pub(super) fn take_in(&mut self, answer: Result<Health, String>) {
        match answer {
            Ok(health) => (self.health, self.trouble) = (health, None),
            Err(trouble) => self.trouble = Some(trouble),
        }
    }

    pub(super) fn is_well(&self) -> bool {
        self.pulse.is_up() && self.trouble.is_none()
    }

    pub(super) fn version(&self) -> &str {
        self.health.model_version.as_deref().unwrap_or("unknown")
    }

    /// Behind a color's name.
    pub(super) fn shown_version(&self) -> String {
        let version = self.health.model_version.as_ref();
        version.map_or_else(String::new, |version| format!(" ({version})"))
    }
}

pub(super) fn index(color: Color) -> usize {
    match color {
        Color::Blue => 0,
        Color::Green => 1,
    }
}
