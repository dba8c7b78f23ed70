//! What a watch leaves to the next one.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::watched::index;
use crate::{color::Color, journal, monitor::Kept};

/// Everything that was said or done and must not be said or done again.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    /// Blue and green.
    pub(super) colors: [Kept; 2],
    /// The router is down, and this was said.
    pub(super) router_down: bool,
    /// The interrupted command that was told of.
    pub(super) interrupted: Option<String>,
}

impl Memory {
    /// What an earlier watch left; without it everything is taken to be well.
    pub(super) fn read(state: &Path) -> Self {
        let text = fs::read_to_string(path(state)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Of a color, or of the router.
    pub(super) fn set_down(&mut self, color: Option<Color>, down: bool) {
        match color {
            Some(color) => self.colors[index(color)].down = down,
            None => self.router_down = down,
        }
    }

    pub(super) fn write(&self, state: &Path) -> io::Result<()> {
        journal::replace(&path(state), &serde_json::to_string(self)?)
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("watch.json")
}
