//! The commands that are killed.

/// Arguments that make a deployment as short as possible.
pub(super) const FAST_DEPLOYMENT: [&str; 6] = [
    "--bake",
    "1s",
    "--set",
    "health.interval=100ms",
    // Other tests use the same cores.
    "--set",
    "health.stall=30s",
];
/// A hook that fails before the promotion, so the candidate is rolled back.
const FORCE_ROLLBACK: [&str; 2] = ["--set", "hooks.before.promoted=[\"false\"]"];
/// A hook that fails before the switch, so the candidate is refused.
const FORCE_REFUSAL: [&str; 2] = ["--set", "hooks.before.switched=[\"false\"]"];
/// Settings with which the monitor fails over within a second.
const FAST_FAILOVER: [&str; 8] = [
    "--set",
    "monitor.failover=true",
    "--set",
    "monitor.interval=100ms",
    "--set",
    "monitor.fall=2",
    "--set",
    "monitor.rise=1",
];

/// A command that is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A deployment to green.
    Deploy,
    /// A deployment to blue.
    DeployToBlue,
    /// A deployment to green that is refused after validation.
    DeployAndRefuse,
    /// A deployment to green that is rolled back.
    DeployAndRollBack,
    /// `deployer rollback`, from green to blue.
    Rollback,
    /// `deployer switch green`.
    Switch,
    /// `deployer recover`, after a deployer was killed right after the switch to green.
    Recover,
    /// `deployer monitor`, when green is active and crashes.
    FailOver,
}

impl Action {
    /// Returns the exit code of the command if it is not killed.
    pub(super) fn exit_code(self) -> i32 {
        match self {
            Self::DeployAndRefuse => 10,
            Self::DeployAndRollBack => 20,
            _ => 0,
        }
    }

    /// Returns the arguments of the command; `version` is the version to deploy.
    pub(super) fn arguments(self, version: &'static str) -> Vec<&'static str> {
        let deploy = ["deploy", version];
        match self {
            Self::Deploy | Self::DeployToBlue => [&deploy, &FAST_DEPLOYMENT[..]].concat(),
            Self::DeployAndRefuse => [&deploy, &FAST_DEPLOYMENT[..], &FORCE_REFUSAL].concat(),
            Self::DeployAndRollBack => [&deploy, &FAST_DEPLOYMENT[..], &FORCE_ROLLBACK].concat(),
            Self::Rollback => vec!["rollback"],
            Self::Switch => vec!["switch", "green"],
            Self::Recover => vec!["recover"],
            Self::FailOver => [&["monitor"], &FAST_FAILOVER[..]].concat(),
        }
    }
}
