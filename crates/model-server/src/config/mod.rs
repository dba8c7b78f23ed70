pub(crate) mod arguments;
pub(crate) mod log;
pub(crate) mod parsers;
pub(crate) mod settings_file;

use std::{
    ffi::OsString, net::SocketAddr, num::NonZeroUsize, path::PathBuf, thread, time::Duration,
};

use thiserror::Error;

use crate::{
    backend::engine::EngineKind,
    config::{
        arguments::ServeArguments,
        log::{LogFormat, RequestLog},
    },
};

/// A missing or invalid setting.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SettingsError {
    /// `MODEL_VERSION` is not set.
    #[error(
        "set MODEL_VERSION (or --model-version) to the release to serve: a directory below MODEL_ROOT/MODEL_NAME, such as v1"
    )]
    NoVersion,
}

/// The limits of connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Concurrent connections.
    pub connections: usize,
    /// Largest head of a request, in bytes.
    pub header_bytes: usize,
    /// How long a connection may be idle, or take to send the head of a request.
    pub idle: Duration,
}

/// All settings of a server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Model to serve: a directory in the model root.
    pub model_name: String,
    /// Release to serve: a directory of the model.
    pub model_version: String,
    /// Directory of models.
    pub model_root: PathBuf,
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// The engine that runs the model.
    pub engine: EngineKind,
    /// The library for the engine `onnxruntime`; `None` searches the default paths.
    pub onnxruntime_library: Option<PathBuf>,
    /// CPUs to use for the model.
    pub inference_threads: NonZeroUsize,
    /// Concurrent forward passes.
    pub inference_workers: NonZeroUsize,
    /// Most texts in a forward pass; `None` lets the model decide.
    pub max_batch_texts: Option<NonZeroUsize>,
    /// Most tokens in a forward pass, padding included.
    pub max_batch_tokens: NonZeroUsize,
    /// Texts that may wait in the queue.
    pub queue_capacity: NonZeroUsize,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Memory for all large request bodies in flight, in bytes.
    pub max_pending_bytes: usize,
    /// How long a client waits for a prediction.
    pub request_timeout: Duration,
    /// The limits of connections.
    pub connections: ConnectionLimits,
    /// File of API keys; `None` accepts every client.
    pub api_keys_file: Option<PathBuf>,
    /// How long to serve new requests after the stop signal.
    pub grace: Duration,
    /// How long requests in flight may take after that.
    pub hard_stop: Duration,
    /// The format of the log.
    pub log_format: LogFormat,
    /// Which requests are logged.
    pub request_log: RequestLog,
    /// Where to send traces; `None` sends none.
    pub otlp_endpoint: Option<String>,
}

impl ServeArguments {
    /// Checks the arguments, and applies the defaults that depend on other settings.
    pub fn resolve(self) -> Result<Settings, SettingsError> {
        // Compose passes an unset variable as an empty one.
        let version = self.model_version.filter(|version| !version.is_empty());
        let path = |path: Option<OsString>| path.filter(|path| !path.is_empty()).map(PathBuf::from);
        let threads = self.inference_threads.unwrap_or_else(available_cpus);
        Ok(Settings {
            model_version: version.ok_or(SettingsError::NoVersion)?,
            model_name: self.model_name,
            model_root: self.model_root,
            address: SocketAddr::new(self.address.host, self.address.port),
            engine: self.engine,
            onnxruntime_library: path(self.onnxruntime_library),
            inference_threads: threads,
            inference_workers: self.inference_workers.unwrap_or(threads).min(threads),
            max_batch_texts: self.max_batch_texts,
            max_batch_tokens: self.max_batch_tokens,
            queue_capacity: self.queue_capacity,
            max_body_bytes: self.max_body_bytes.get(),
            max_pending_bytes: self.max_pending_bytes.max(self.max_body_bytes).get(),
            request_timeout: self.request_timeout_seconds,
            connections: ConnectionLimits {
                connections: self.connections.max_connections.get(),
                header_bytes: self.connections.max_header_bytes as usize,
                idle: self.connections.idle_timeout_seconds,
            },
            api_keys_file: path(self.api_keys_file),
            grace: self.grace_seconds,
            hard_stop: self.hard_stop_seconds,
            log_format: self.log_format,
            request_log: self.request_log,
            otlp_endpoint: self.otlp_endpoint.filter(|endpoint| !endpoint.is_empty()),
        })
    }
}

/// The CPUs that this process may use, by affinity and by the cgroup's quota.
fn available_cpus() -> NonZeroUsize {
    thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

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
        assert_eq!(settings.onnxruntime_library, None);
    }

    #[test]
    fn defaults_suit_a_machine_without_router() {
        let settings = resolve(&["--model-version", "v1"]).unwrap();
        assert_eq!(settings.model_name, "sentiment");
        assert_eq!(settings.address.to_string(), "127.0.0.1:8081");
        assert_eq!(settings.grace, Duration::from_secs(5));
        assert_eq!(settings.hard_stop, Duration::from_secs(30));
        assert_eq!(settings.max_body_bytes, 1024 * 1024);
        assert!(settings.inference_threads <= available_cpus());
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
        assert_eq!(settings.grace, Duration::from_millis(250));
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
}
