//! Programs that run around each phase.

use crate::deployment::phase::Phase;
use serde::Deserialize;
use std::collections::HashMap;
use std::time::Duration;

/// Hooks: a program and its arguments for each phase.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HooksSettings {
    /// Time limit of one hook.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Before a phase. A hook that fails fails the deployment.
    pub before: HashMap<Phase, Vec<String>>,
    /// After a phase. A hook that fails is only reported.
    pub after: HashMap<Phase, Vec<String>>,
}
