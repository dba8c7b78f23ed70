//! What can be set by flag or environment, and the values that follow from it.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    thread,
    time::Duration,
};

use clap::{Args, ValueEnum};
use thiserror::Error;

/// A setting that is missing or cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// Nothing says which release to serve.
    #[error(
        "set MODEL_VERSION (or --model-version) to the release to serve: a directory below MODEL_ROOT/MODEL_NAME, such as v1"
    )]
    NoVersion,
}

/// The arguments of the server as they were given; [`ServeArguments::resolve`] makes settings
/// of them. Another binary may flatten them into its own command line.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Model to serve: a directory below the model root
    #[arg(
        long,
        env = "MODEL_NAME",
        default_value = "sentiment",
        value_name = "NAME"
    )]
    model_name: String,

    /// Release to serve: a directory below the model's, such as v1 (required)
    #[arg(long, env = "MODEL_VERSION", value_name = "VERSION")]
    model_version: Option<String>,

    /// Directory of models: ROOT/NAME/VERSION/{model.onnx, tokenizer.json, config.json}
    #[arg(
        long,
        env = "MODEL_ROOT",
        default_value = "models",
        value_name = "ROOT"
    )]
    model_root: PathBuf,

    #[command(flatten)]
    address: AddressArguments,

    /// Threads that run the model [default: the CPUs this process may use]
    #[arg(long, env = "INFERENCE_THREADS", value_name = "COUNT")]
    inference_threads: Option<NonZeroUsize>,

    /// Texts that may wait for a thread; beyond it clients are told to come back (429)
    #[arg(
        long,
        env = "QUEUE_CAPACITY",
        default_value = "1024",
        value_name = "COUNT"
    )]
    queue_capacity: NonZeroUsize,

    /// Largest request body; a larger one is refused (413)
    #[arg(
        long,
        env = "MAX_BODY_BYTES",
        default_value = "1048576",
        value_name = "BYTES"
    )]
    max_body_bytes: NonZeroUsize,

    /// How long a client waits at most for a prediction (504); from 0.01 to 100
    #[arg(long, env = "REQUEST_TIMEOUT_SECONDS", default_value = "30", value_name = "SECONDS",
          value_parser = request_timeout)]
    request_timeout_seconds: Duration,

    /// After SIGTERM: how long to go on serving what still arrives, while /health says 503
    #[arg(long, env = "GRACE_SECONDS", default_value = "5", value_name = "SECONDS",
          value_parser = seconds)]
    grace_seconds: Duration,

    /// After the grace: how long requests in flight may take before they are cut
    #[arg(long, env = "HARD_STOP_SECONDS", default_value = "30", value_name = "SECONDS",
          value_parser = seconds)]
    hard_stop_seconds: Duration,

    /// Form of the log on standard error
    #[arg(
        long,
        env = "LOG_FORMAT",
        default_value = "plain",
        value_name = "FORMAT"
    )]
    log_format: LogFormat,
}

/// Where the server listens; its own health check asks there.
#[derive(Debug, Clone, Copy, Args)]
pub struct AddressArguments {
    /// Address to listen on; 0.0.0.0 in a container
    #[arg(long, env = "HOST", default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) host: IpAddr,

    /// Port to listen on; 0 takes a free one, which the log names
    #[arg(long, env = "PORT", default_value = "8081", value_name = "PORT")]
    pub(crate) port: u16,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Plain,
    /// One JSON object per line.
    Json,
}

/// Everything that a server needs to know.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Model to serve: a directory below the model root.
    pub model_name: String,
    /// Release to serve: a directory below the model's.
    pub model_version: String,
    /// Directory of models.
    pub model_root: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// Threads that run the model.
    pub inference_threads: NonZeroUsize,
    /// Texts that may wait for a thread.
    pub queue_capacity: NonZeroUsize,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// How long a client waits at most for a prediction.
    pub request_timeout: Duration,
    /// How long to go on serving after the stop signal.
    pub grace: Duration,
    /// How long requests in flight may take after that.
    pub hard_stop: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl ServeArguments {
    /// The settings that follow from the arguments.
    pub fn resolve(self) -> Result<Settings, SettingsError> {
        // Compose passes a variable that is not set as an empty one.
        let version = self.model_version.filter(|version| !version.is_empty());
        Ok(Settings {
            model_version: version.ok_or(SettingsError::NoVersion)?,
            model_name: self.model_name,
            model_root: self.model_root,
            address: SocketAddr::new(self.address.host, self.address.port),
            inference_threads: self.inference_threads.unwrap_or_else(available_cpus),
            queue_capacity: self.queue_capacity,
            max_body_bytes: self.max_body_bytes.get(),
            request_timeout: self.request_timeout_seconds,
            grace: self.grace_seconds,
            hard_stop: self.hard_stop_seconds,
            log_format: self.log_format,
        })
    }
}

/// The CPUs that this process may use, by affinity and by its cgroup's quota.
fn available_cpus() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// A day: longer waits are typing errors.
const LONGEST: Duration = Duration::from_hours(24);

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|duration| *duration <= LONGEST)
        .ok_or_else(|| "expected seconds from 0 to 86400, such as 5 or 0.5".to_owned())
}

/// The router gives up after 120 s; the server has to answer well before, or nobody learns why.
fn request_timeout(text: &str) -> Result<Duration, String> {
    seconds(text)
        .ok()
        .filter(|it| (Duration::from_millis(10)..=Duration::from_secs(100)).contains(it))
        .ok_or_else(|| {
            "expected seconds from 0.01 to 100 (the router gives up after 120)".to_owned()
        })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArguments,
    }

    fn resolve(arguments: &[&str]) -> Result<Settings, SettingsError> {
        let line = [&["model-server"], arguments].concat();
        Line::try_parse_from(line).unwrap().serve.resolve()
    }

    fn refusal(arguments: &[&str]) -> String {
        let line = [&["model-server"], arguments].concat();
        let error = Line::try_parse_from(line).map(drop).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn defaults_are_those_of_a_machine_without_a_router() {
        let settings = resolve(&["--model-version", "v1"]).unwrap();
        assert_eq!(settings.model_name, "sentiment");
        assert_eq!(settings.address.to_string(), "127.0.0.1:8081");
        assert_eq!(settings.grace, Duration::from_secs(5));
        assert_eq!(settings.hard_stop, Duration::from_secs(30));
        assert_eq!(settings.max_body_bytes, 1024 * 1024);
        assert!(settings.inference_threads <= available_cpus());
    }

    #[test]
    fn a_missing_version_says_what_to_set() {
        for arguments in [&[][..], &["--model-version", ""]] {
            let message = resolve(arguments).unwrap_err().to_string();
            assert!(message.contains("set MODEL_VERSION"), "{message}");
        }
    }

    #[test]
    fn seconds_may_have_a_fraction_but_not_a_sign() {
        let settings = resolve(&["--model-version", "v1", "--grace-seconds", "0.25"]).unwrap();
        assert_eq!(settings.grace, Duration::from_millis(250));
        for bad in ["-1", "NaN", "1e9", "soon"] {
            let message = refusal(&["--model-version", "v1", &format!("--grace-seconds={bad}")]);
            assert!(message.contains("expected seconds"), "{bad}: {message}");
        }
    }

    #[test]
    fn a_request_timeout_that_outlasts_the_router_is_refused() {
        let message = refusal(&["--model-version", "v1", "--request-timeout-seconds", "120"]);
        assert!(message.contains("from 0.01 to 100"), "{message}");
    }

    #[test]
    fn no_threads_at_all_are_refused() {
        refusal(&["--model-version", "v1", "--inference-threads", "0"]);
    }
}
