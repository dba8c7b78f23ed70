//! Flags and environment variables, which win over the settings file.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::{FleetKind, Settings, SettingsError};

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

    /// Directory of the journal, the lock and the logs [default: state]
    #[arg(long, global = true, env = "DEPLOYER_STATE", value_name = "DIRECTORY")]
    state: Option<PathBuf>,
}

impl GlobalOverrides {
    /// Lets these flags win.
    pub fn apply(&self, settings: &mut Settings) {
        set(&mut settings.fleet.kind, self.fleet.as_ref());
        set(&mut settings.state, self.state.as_ref());
    }
}

/// Flags of `deploy`. A default stands here in words, since the settings file may replace it.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Figures")]
pub struct DeployOverrides {
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

    /// Requests needed to judge the error rate while watching [default: 20]
    #[arg(long, env = "DEPLOYER_WATCH_MIN_REQUESTS", value_name = "N")]
    watch_min_requests: Option<u64>,

    /// Failed checks in a row that end the watch with a roll-back [default: 3]
    #[arg(long, env = "DEPLOYER_WATCH_FAILURES", value_name = "N")]
    watch_failures: Option<u32>,
}

impl DeployOverrides {
    /// Lets these flags win, and checks every figure's range.
    pub fn apply(&self, settings: &mut Settings) -> Result<(), SettingsError> {
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
        check(settings)
    }
}

fn set<T: Clone>(setting: &mut T, given: Option<&T>) {
    if let Some(given) = given {
        setting.clone_from(given);
    }
}

fn check(settings: &Settings) -> Result<(), SettingsError> {
    let Settings {
        health,
        smoke,
        watch,
        probe,
        ..
    } = settings;
    let counts = [
        ("health.tries", u64::from(health.tries)),
        ("smoke.requests", u64::from(smoke.requests)),
        ("watch.min_requests", watch.min_requests),
        ("watch.failures", u64::from(watch.failures)),
    ];
    let rates = [
        ("smoke.max_error_rate", smoke.max_error_rate),
        ("watch.max_error_rate", watch.max_error_rate),
    ];
    let durations = [
        ("health.interval", health.interval),
        ("probe.timeout", probe.timeout),
        ("watch.interval", watch.interval),
    ];
    let out_of_range = |key, value: String, expected| {
        Err(SettingsError::OutOfRange {
            key,
            value,
            expected,
        })
    };
    for (key, value) in counts {
        if value == 0 {
            return out_of_range(key, value.to_string(), "at least 1");
        }
    }
    for (key, value) in rates {
        if !(0.0..1.0).contains(&value) {
            return out_of_range(key, value.to_string(), "at least 0 and below 1");
        }
    }
    for (key, value) in durations {
        if value.is_zero() {
            return out_of_range(
                key,
                humantime::format_duration(value).to_string(),
                "longer than 0s",
            );
        }
    }
    if watch.duration < watch.interval {
        return out_of_range(
            "watch.duration",
            humantime::format_duration(watch.duration).to_string(),
            "at least watch.interval",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        super::super::load(None).unwrap()
    }

    #[test]
    fn a_flag_wins_over_the_file() {
        let mut settings = settings();
        let flags = DeployOverrides {
            smoke_requests: Some(7),
            ..DeployOverrides::default()
        };
        flags.apply(&mut settings).unwrap();
        assert_eq!(settings.smoke.requests, 7);
        assert_eq!(settings.health.tries, 10);
    }

    #[test]
    fn figures_that_would_prove_nothing_are_refused() {
        for (flags, key) in [
            (
                DeployOverrides {
                    health_tries: Some(0),
                    ..DeployOverrides::default()
                },
                "health.tries",
            ),
            (
                DeployOverrides {
                    smoke_requests: Some(0),
                    ..DeployOverrides::default()
                },
                "smoke.requests",
            ),
            (
                DeployOverrides {
                    smoke_max_error_rate: Some(1.0),
                    ..DeployOverrides::default()
                },
                "smoke.max_error_rate",
            ),
            (
                DeployOverrides {
                    watch_max_error_rate: Some(f64::NAN),
                    ..DeployOverrides::default()
                },
                "watch.max_error_rate",
            ),
            (
                DeployOverrides {
                    watch_failures: Some(0),
                    ..DeployOverrides::default()
                },
                "watch.failures",
            ),
            (
                DeployOverrides {
                    watch_duration: Some(Duration::ZERO),
                    ..DeployOverrides::default()
                },
                "watch.duration",
            ),
        ] {
            let error = flags.apply(&mut settings()).unwrap_err().to_string();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
