//! The settings, one file a section. Each section is at once a part of the command line and what the server reads.

mod address;
mod batching;
mod capture;
mod drain;
mod engine;
mod limits;
pub(crate) mod log;
mod model;
pub(crate) mod parsers;
pub(crate) mod settings_file;

use std::path::PathBuf;

use clap::Args;
use thiserror::Error;

use crate::config::{
    log::LogSettings,
    parsers::{otlp_endpoint, path},
};

pub use address::Address;
pub use batching::Batching;
pub use capture::{CaptureSettings, Redaction};
pub use drain::Drain;
pub use engine::EngineSettings;
pub use limits::{ConnectionLimits, Limits};
pub use model::ModelSettings;

/// A missing or invalid setting.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// `MODEL_VERSION` is not set.
    #[error(
        "set MODEL_VERSION (or --model-version) to the release to serve: a directory below MODEL_ROOT/MODEL_NAME, such as v1"
    )]
    NoVersion,
}

/// All settings of a server. [`ServeArguments::resolve`] returns checked ones.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Which release to serve.
    #[command(flatten)]
    pub model: ModelSettings,

    /// Where to listen.
    #[command(flatten)]
    pub address: Address,

    /// What runs the model.
    #[command(flatten)]
    pub engine: EngineSettings,

    /// How many texts share a forward pass.
    #[command(flatten)]
    pub batching: Batching,

    /// The limits of the queue, of requests, and of connections.
    #[command(flatten)]
    pub limits: Limits,

    /// File of API keys, one on each line, # starts a comment; reloaded when it changes. With it, every request
    /// except health checks needs a key
    #[arg(long, env = "API_KEYS_FILE", value_name = "PATH", value_parser = path())]
    pub api_keys_file: Option<PathBuf>,

    /// How the server stops.
    #[command(flatten)]
    pub drain: Drain,

    /// What is logged, and how.
    #[command(flatten)]
    pub log: LogSettings,

    /// Which inputs are kept as material for golden sets.
    #[command(flatten)]
    pub capture: CaptureSettings,

    /// Where to send traces (OTLP over HTTP), such as `http://localhost:4318` [default: nowhere]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = otlp_endpoint)]
    pub otlp_endpoint: Option<String>,
}

/// The command line of the server. Another program may flatten it into its own command line.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    #[command(flatten)]
    unchecked: Settings,
}

impl ServeArguments {
    /// Checks what no single argument shows, and adapts settings that depend on others.
    pub fn resolve(self) -> Result<Settings, SettingsError> {
        let mut settings = self.unchecked;
        if settings.model.version.is_empty() {
            return Err(SettingsError::NoVersion);
        }
        let limits = &mut settings.limits;
        limits.max_pending_bytes = limits.max_pending_bytes.max(limits.max_body_bytes);
        // Compose passes an unset setting as an empty one.
        for path in [
            &mut settings.api_keys_file,
            &mut settings.engine.library,
            &mut settings.capture.directory,
        ] {
            path.take_if(|path| path.as_os_str().is_empty());
        }
        settings.otlp_endpoint.take_if(|url| url.is_empty());
        Ok(settings)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::SocketAddr, time::Duration};

    use clap::Parser;

    use super::*;
    use crate::config::engine::available_cpus;

    #[derive(Parser)]
    struct Arguments {
        #[command(flatten)]
        serve: ServeArguments,
    }

    fn resolve(arguments: &[&str]) -> Result<Settings, SettingsError> {
        let arguments = [&["model-server"], arguments].concat();
        Arguments::try_parse_from(arguments)
            .unwrap()
            .serve
            .resolve()
    }

    fn refusal(arguments: &[&str]) -> String {
        let arguments = [&["model-server"], arguments].concat();
        let error = Arguments::try_parse_from(arguments).map(drop).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    #[test]
    fn empty_path_counts_as_unset() {
        let empty = [
            "--model-version",
            "v1",
            "--api-keys-file",
            "",
            "--onnxruntime-library",
            "",
        ];
        let settings = resolve(&empty).unwrap();
        assert_eq!(settings.api_keys_file, None);
        assert_eq!(settings.engine.library, None);
    }

    #[test]
    fn defaults_suit_a_machine_without_router() {
        let settings = resolve(&["--model-version", "v1"]).unwrap();
        assert_eq!(settings.model.name, "sentiment");
        assert_eq!(
            SocketAddr::from(settings.address).to_string(),
            "127.0.0.1:8081"
        );
        assert_eq!(settings.drain.grace, Duration::from_secs(5));
        assert_eq!(settings.drain.hard_stop, Duration::from_secs(30));
        assert_eq!(settings.limits.max_body_bytes, 1024 * 1024);
        assert!(settings.engine.threads() <= available_cpus());
    }

    #[test]
    fn missing_version_error_names_the_setting() {
        for arguments in [&[][..], &["--model-version", ""]] {
            let message = resolve(arguments).unwrap_err().to_string();
            assert!(message.contains("set MODEL_VERSION"), "{message}");
        }
    }

    #[test]
    fn seconds_may_be_fractional_but_not_negative() {
        let settings = resolve(&["--model-version", "v1", "--grace-seconds", "0.25"]).unwrap();
        assert_eq!(settings.drain.grace, Duration::from_millis(250));
        for bad in ["-1", "NaN", "1e9", "soon"] {
            let message = refusal(&["--model-version", "v1", &format!("--grace-seconds={bad}")]);
            assert!(message.contains("expected seconds"), "{bad}: {message}");
        }
    }

    #[test]
    fn request_timeout_beyond_the_router_is_refused() {
        let message = refusal(&["--model-version", "v1", "--request-timeout-seconds", "120"]);
        assert!(message.contains("from 0.01 to 100"), "{message}");
    }

    #[test]
    fn trace_endpoint_is_a_url_or_empty() {
        let endpoint = |url| {
            let arguments = ["--model-version", "v1", "--otlp-endpoint", url];
            resolve(&arguments).unwrap().otlp_endpoint
        };
        assert_eq!(endpoint(""), None);
        assert_eq!(endpoint("http://a:4318").as_deref(), Some("http://a:4318"));
        let message = refusal(&["--model-version", "v1", "--otlp-endpoint", "a:4318"]);
        assert!(message.contains("expected a URL such as"), "{message}");
    }

    #[test]
    fn zero_threads_are_refused() {
        refusal(&["--model-version", "v1", "--inference-threads", "0"]);
    }

    #[test]
    fn workers_never_outnumber_threads() {
        let workers = |more: &str| {
            let arguments = ["--model-version=v1", "--inference-threads=3", more];
            resolve(&arguments).unwrap().engine.workers().get()
        };
        assert_eq!(workers("--inference-workers=2"), 2);
        assert_eq!(workers("--inference-workers=8"), 3);
        assert_eq!(workers("--port=0"), 3);
    }

    #[test]
    fn memory_for_bodies_holds_at_least_the_largest_body() {
        let arguments = [
            "--model-version=v1",
            "--max-body-bytes=2000",
            "--max-pending-bytes=1000",
        ];
        let limits = resolve(&arguments).unwrap().limits;
        assert_eq!(limits.max_pending_bytes, 2000);
    }
}
