//! What a candidate is compared with.

/// What a candidate is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The active release.
    Compared,
    /// Nothing, if the active color is down.
    ActiveDown,
    /// Nothing: it was promoted earlier, and the active release may be the bad one.
    Alone,
}

impl Scope {
    /// The scope of a deployment with or without `--active-down`.
    #[must_use]
    pub fn of_flag(active_down: bool) -> Self {
        if active_down {
            Self::ActiveDown
        } else {
            Self::Compared
        }
    }
}
