//! The two environments.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One of the two environments.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// Active when the router's flag `green` is absent.
    Blue,
    /// Active when the router's flag `green` is present.
    Green,
}

impl Color {
    /// Both colors, blue first.
    pub const BOTH: [Self; 2] = [Self::Blue, Self::Green];

    /// The color that is idle while this one is active.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Blue => Self::Green,
            Self::Green => Self::Blue,
        }
    }

    /// The color's name in the router's files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Blue => "blue",
            Self::Green => "green",
        }
    }
}

impl fmt::Display for Color {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}
