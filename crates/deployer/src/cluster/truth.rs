//! What the store holds: where traffic goes, and which change is prepared.

use serde::{Deserialize, Serialize};

use crate::color::Color;

/// What every router must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterFlags {
    /// The color that has the traffic.
    pub active: Color,
    /// Whether blue may stand in for green.
    pub fit_blue: bool,
    /// Whether green may stand in for blue.
    pub fit_green: bool,
    /// Whether the idle color gets copies of client requests.
    pub shadow: bool,
}

/// A fenced change that is not decided yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prepared {
    /// The generation that commits or aborts the change: one more than the truth's.
    pub generation: u64,
    /// The flags if it is committed.
    pub flags: RouterFlags,
    /// Who prepared it, such as `deploy v2 by alice@build-7`.
    pub by: String,
}

/// The one object that decides where traffic goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// Grows by one with each outcome: a commit, an abort, and a change that needs no fence. Preparing keeps it.
    pub generation: u64,
    /// What every router must do now.
    pub flags: RouterFlags,
    /// The change that is not decided yet.
    pub prepared: Option<Prepared>,
}

impl Default for RouterFlags {
    /// Blue is active and has no standby, as in an empty flag directory.
    fn default() -> Self {
        Self {
            active: Color::Blue,
            fit_blue: false,
            fit_green: false,
            shadow: false,
        }
    }
}

impl Default for Truth {
    /// The truth of a new store.
    fn default() -> Self {
        Self {
            generation: 1,
            flags: RouterFlags::default(),
            prepared: None,
        }
    }
}

impl RouterFlags {
    /// Returns whether `color` may stand in for the other color.
    #[must_use]
    pub fn is_fit(self, color: Color) -> bool {
        match color {
            Color::Blue => self.fit_blue,
            Color::Green => self.fit_green,
        }
    }

    /// Returns these flags with the fit flag of `color` set to `fit`.
    #[must_use]
    pub fn with_fit(mut self, color: Color, fit: bool) -> Self {
        match color {
            Color::Blue => self.fit_blue = fit,
            Color::Green => self.fit_green = fit,
        }
        self
    }

    /// Returns whether a change from these flags to `to` must be fenced: a router that missed it would serve another color,
    /// or let an unproven release stand in.
    #[must_use]
    pub fn needs_fence(self, to: Self) -> bool {
        let loses_fit = |color| self.is_fit(color) && !to.is_fit(color);
        self.active != to.active || Color::BOTH.into_iter().any(loses_fit)
    }
}

impl Truth {
    /// Returns the truth of a new store: `active` has the traffic, and no color is fit.
    #[must_use]
    pub fn of_new_store(active: Color) -> Self {
        Self {
            flags: RouterFlags {
                active,
                ..RouterFlags::default()
            },
            ..Self::default()
        }
    }

    /// Returns the truth in which the change to `flags` is prepared. An undecided change before it is replaced by a later
    /// generation, so `self` must have none.
    #[must_use]
    pub fn prepare(&self, flags: RouterFlags, by: &str) -> Self {
        Self {
            prepared: Some(Prepared {
                generation: self.generation + 1,
                flags,
                by: by.to_owned(),
            }),
            ..self.clone()
        }
    }

    /// Returns the next truth with these flags and nothing prepared: the commit of a prepared change, its abort (with the
    /// flags of `self`), or a change without a fence.
    #[must_use]
    pub fn decide(&self, flags: RouterFlags) -> Self {
        Self {
            generation: self.generation + 1,
            flags,
            prepared: None,
        }
    }
}
