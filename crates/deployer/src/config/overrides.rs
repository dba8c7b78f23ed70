//! Flags and environment variables that override the settings file.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::config::{bake::OnInterrupt, fleet::FleetKind, settings::Settings};

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalOverrides {
    /// Settings file [default: deployer.toml, if it exists]
    #[arg(long, global = true, env = "DEPLOYER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// What starts and stops the servers [default: compose]
    #[arg(long, global = true, env = "DEPLOYER_FLEET", value_name = "KIND")]
    fleet: Option<FleetKind>,

    // Not global: clap would drop what stands before the subcommand if the flag also stands after it.
    /// Setting for this run, named as in the settings file: `--set load.max_p99=1s`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,

    /// Write JSON to standard output, one object per line, instead of text
    #[arg(long, global = true)]
    pub json: bool,

    /// Directory of the journal, the lock, and the logs [default: state]
    #[arg(long, global = true, env = "DEPLOYER_STATE", value_name = "DIRECTORY")]
    state: Option<PathBuf>,
}

impl GlobalOverrides {
    /// Replaces the settings for which a flag or variable was given.
    pub fn apply(&self, settings: &mut Settings) {
        set(&mut settings.fleet.kind, self.fleet.as_ref());
        set(&mut settings.state, self.state.as_ref());
        // No flags, because every user of the machine can read the arguments of a process.
        let variable = |name| std::env::var(name).ok().filter(|url| !url.is_empty());
        let alerts = &mut settings.alerts;
        set(
            &mut alerts.webhook,
            variable("DEPLOYER_ALERTS_WEBHOOK").as_ref(),
        );
        set(
            &mut alerts.slack,
            variable("DEPLOYER_ALERTS_SLACK").as_ref(),
        );
        set(
            &mut settings.traces.endpoint,
            variable("OTEL_EXPORTER_OTLP_ENDPOINT").as_ref(),
        );
    }
}

/// Flags of `deploy` and `recover`; `--set` changes every other setting.
#[derive(Debug, Clone, Default, Args)]
pub struct DeployOverrides {
    /// Image to start the release from, with Compose [default: the idle color's image]
    #[arg(long, env = "DEPLOYER_RELEASE_IMAGE", value_name = "IMAGE")]
    image: Option<String>,

    /// Duration of the bake, the period under real traffic after the switch [default: 1m]
    #[arg(long, env = "DEPLOYER_BAKE", value_name = "DURATION", value_parser = humantime::parse_duration)]
    bake: Option<Duration>,

    /// What to do with a candidate that has traffic when the deployer receives Ctrl-C, SIGTERM, or SIGHUP
    /// [default: rollback]
    #[arg(long, env = "DEPLOYER_ON_INTERRUPT", value_name = "ACTION")]
    on_interrupt: Option<OnInterrupt>,
}

impl DeployOverrides {
    /// Replaces the settings for which a flag was given.
    pub fn apply(&self, settings: &mut Settings) {
        set(&mut settings.fleet.compose.image, self.image.as_ref());
        set(&mut settings.bake.duration, self.bake.as_ref());
        set(&mut settings.bake.on_interrupt, self.on_interrupt.as_ref());
    }
}

fn set<T: Clone>(setting: &mut T, given: Option<&T>) {
    if let Some(given) = given {
        setting.clone_from(given);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_overrides_settings_file() {
        let mut settings = super::super::load(None, &[]).unwrap();
        let flags = DeployOverrides {
            bake: Some(Duration::from_secs(7)),
            ..DeployOverrides::default()
        };
        flags.apply(&mut settings);
        assert_eq!(settings.bake.duration, Duration::from_secs(7));
        assert_eq!(settings.bake.on_interrupt, OnInterrupt::Rollback);
    }
}
