//! Flags and environment variables, which win over the settings file.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{FleetKind, OnInterrupt, Settings};

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct GlobalOverrides {
    /// Settings file [default: deployer.toml, if there is one]
    #[arg(long, global = true, env = "DEPLOYER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Who starts and stops the servers [default: compose]
    #[arg(long, global = true, env = "DEPLOYER_FLEET", value_name = "KIND")]
    fleet: Option<FleetKind>,

    // Not global: what stands before the subcommand would be lost to what stands behind it.
    /// A setting for this run, named as in the settings file: `--set load.max_p99=1s`
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub settings: Vec<String>,

    /// Write one JSON object a line to standard output, and nothing for people
    #[arg(long, global = true)]
    pub json: bool,

    /// Directory of the journal, the lock and the logs [default: state]
    #[arg(long, global = true, env = "DEPLOYER_STATE", value_name = "DIRECTORY")]
    state: Option<PathBuf>,
}

impl GlobalOverrides {
    /// Lets these flags win.
    pub fn apply(&self, settings: &mut Settings) {
        set(&mut settings.fleet.kind, self.fleet.as_ref());
        set(&mut settings.state, self.state.as_ref());
        // No flags: everybody on the machine can read a command's arguments.
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
    }
}

/// Flags of `deploy`. A default stands here in words, since the settings file may replace it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Figures")]
pub struct DeployOverrides {
    /// The image that the release is started from, by Compose [default: the idle color's]
    #[arg(long, env = "DEPLOYER_RELEASE_IMAGE", value_name = "IMAGE")]
    image: Option<String>,

    /// Health checks before a candidate is given up [default: 10]
    #[arg(long, env = "DEPLOYER_HEALTH_TRIES", value_name = "N")]
    health_tries: Option<u32>,

    /// Time between two health checks [default: 3s]
    #[arg(long, env = "DEPLOYER_HEALTH_INTERVAL", value_name = "DURATION", value_parser = humantime::parse_duration)]
    health_interval: Option<Duration>,

    /// What takes longer than this has failed [default: 2s]
    #[arg(long, env = "DEPLOYER_PROBE_TIMEOUT", value_name = "DURATION", value_parser = humantime::parse_duration)]
    probe_timeout: Option<Duration>,

    /// Test requests before the switch [default: 50]
    #[arg(long, env = "DEPLOYER_SMOKE_REQUESTS", value_name = "N")]
    smoke_requests: Option<u32>,

    /// Share of the test requests that may fail, 0 to 1 [default: 0.05]
    #[arg(long, env = "DEPLOYER_SMOKE_MAX_ERROR_RATE", value_name = "RATE")]
    smoke_max_error_rate: Option<f64>,

    /// How long the candidate is watched after the switch [default: 1m]
    #[arg(long = "watch", env = "DEPLOYER_WATCH", value_name = "DURATION", value_parser = humantime::parse_duration)]
    watch_duration: Option<Duration>,

    /// Time between two looks at the candidate [default: 1s]
    #[arg(long, env = "DEPLOYER_WATCH_INTERVAL", value_name = "DURATION", value_parser = humantime::parse_duration)]
    watch_interval: Option<Duration>,

    /// Share of client requests that may fail while watching, 0 to 1 [default: 0.05]
    #[arg(long, env = "DEPLOYER_WATCH_MAX_ERROR_RATE", value_name = "RATE")]
    watch_max_error_rate: Option<f64>,

    /// Requests needed to judge the error rate while watching [default: 50]
    #[arg(long, env = "DEPLOYER_WATCH_MIN_REQUESTS", value_name = "N")]
    watch_min_requests: Option<u64>,

    /// Failed checks in a row that end the watch with a roll-back [default: 3]
    #[arg(long, env = "DEPLOYER_WATCH_FAILURES", value_name = "N")]
    watch_failures: Option<u32>,

    /// What becomes of a release that has the traffic when the deployer is told to stop (Ctrl-C,
    /// SIGTERM, SIGHUP) [default: rollback]
    #[arg(long, env = "DEPLOYER_ON_INTERRUPT", value_name = "WHAT")]
    on_interrupt: Option<OnInterrupt>,
}

impl DeployOverrides {
    /// Lets these flags win.
    pub fn apply(&self, settings: &mut Settings) {
        set(&mut settings.fleet.compose.image, self.image.as_ref());
        set(&mut settings.health.tries, self.health_tries.as_ref());
        set(&mut settings.health.interval, self.health_interval.as_ref());
        set(&mut settings.probe.timeout, self.probe_timeout.as_ref());
        set(&mut settings.smoke.requests, self.smoke_requests.as_ref());
        set(
            &mut settings.smoke.max_error_rate,
            self.smoke_max_error_rate.as_ref(),
        );
        set(&mut settings.watch.duration, self.watch_duration.as_ref());
        set(&mut settings.watch.interval, self.watch_interval.as_ref());
        set(
            &mut settings.watch.max_error_rate,
            self.watch_max_error_rate.as_ref(),
        );
        set(
            &mut settings.watch.min_requests,
            self.watch_min_requests.as_ref(),
        );
        set(&mut settings.watch.failures, self.watch_failures.as_ref());
        set(&mut settings.watch.on_interrupt, self.on_interrupt.as_ref());
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
    fn a_flag_wins_over_the_file() {
        let mut settings = super::super::load(None, &[]).unwrap();
        let flags = DeployOverrides {
            smoke_requests: Some(7),
            ..DeployOverrides::default()
        };
        flags.apply(&mut settings);
        assert_eq!(settings.smoke.requests, 7);
        assert_eq!(settings.health.tries, 10);
    }
}
