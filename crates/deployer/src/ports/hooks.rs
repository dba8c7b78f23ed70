//! The user's programs around each phase.

use async_trait::async_trait;

use crate::{
    deployment::{phase::Phase, plan::Plan},
    ports::error::PortError,
};

/// Whether a hook runs before or after a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// Before the phase is entered.
    Before,
    /// After the phase is in the journal.
    After,
}

/// Runs the programs that the settings name around each phase.
#[async_trait]
pub trait Hooks: Send + Sync {
    /// Runs the hook of this phase, if there is one, bounded in time. `reason` says why a deployment ended.
    async fn run(
        &self,
        when: HookPoint,
        phase: Phase,
        plan: &Plan,
        reason: Option<&str>,
    ) -> Result<(), PortError>;
}
