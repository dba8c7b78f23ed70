//! What can be set by flag or environment, and the values that follow from it.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    path::PathBuf,
    thread,
    time::Duration,
};

use clap::{Args, ValueEnum};
use thiserror::Error;

use crate::{engine::EngineKind, telemetry};

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

    /// Who runs the model: the built-in engine, or Microsoft's library, which has to be there
    #[arg(long, env = "ENGINE", default_value = "rten", value_name = "ENGINE")]
    engine: EngineKind,

    /// The library for --engine onnxruntime [default: libonnxruntime.so in the usual places]
    #[arg(long, env = "ONNXRUNTIME_LIBRARY", value_name = "PATH")]
    onnxruntime_library: Option<OsString>,

    /// CPUs to use for the model [default: those that this process may use]
    #[arg(long, env = "INFERENCE_THREADS", value_name = "COUNT")]
    inference_threads: Option<NonZeroUsize>,

    /// Forward passes at the same time, at most as many as threads; one that is alone uses all
    /// threads [default: as many as threads]
    #[arg(long, env = "INFERENCE_WORKERS", value_name = "COUNT")]
    inference_workers: Option<NonZeroUsize>,

    /// Texts of like length that share a forward pass at most; 1 for none [default: 4, more
    /// for a model that takes microseconds, 1 for one that quantizes as it goes: there a text's
    /// answer would depend on its neighbors]
    #[arg(long, env = "MAX_BATCH_TEXTS", value_name = "COUNT")]
    max_batch_texts: Option<NonZeroUsize>,

    /// Tokens in a forward pass at most, padding included; one longer text goes alone
    #[arg(
        long,
        env = "MAX_BATCH_TOKENS",
        default_value = "4096",
        value_name = "COUNT"
    )]
    max_batch_tokens: NonZeroUsize,

    /// Texts that may wait for their turn; beyond it clients are told to come back (429). One
    /// request may have a quarter as many
    #[arg(
        long,
        env = "QUEUE_CAPACITY",
        default_value = "1024",
        value_name = "COUNT"
    )]
    queue_capacity: NonZeroUsize,

    /// Largest request body, decompressed; a larger one is refused (413)
    #[arg(
        long,
        env = "MAX_BODY_BYTES",
        default_value = "1048576",
        value_name = "BYTES"
    )]
    max_body_bytes: NonZeroUsize,

    /// Memory for request bodies above 16 KiB (decompressed) that are under way, all together; beyond it
    /// clients are told to come back (429); at least the largest body
    #[arg(
        long,
        env = "MAX_PENDING_BYTES",
        default_value = "67108864",
        value_name = "BYTES"
    )]
    max_pending_bytes: NonZeroUsize,

    /// How long a client waits at most for a prediction (504); from 0.01 to 100
    #[arg(long, env = "REQUEST_TIMEOUT_SECONDS", default_value = "30", value_name = "SECONDS",
          value_parser = request_timeout)]
    request_timeout_seconds: Duration,

    #[command(flatten)]
    connections: ConnectionArguments,

    /// File of API keys, one a line, # begins a comment; read again when it changes. With it,
    /// every request but for health needs one of them
    #[arg(long, env = "API_KEYS_FILE", value_name = "PATH")]
    api_keys_file: Option<OsString>,

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

    /// Which requests get a line in the log
    #[arg(long, env = "REQUEST_LOG", default_value = "all", value_name = "WHICH")]
    request_log: RequestLog,

    /// Where to send traces (OTLP over HTTP), such as `http://localhost:4318` [default: nowhere]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL",
          value_parser = otlp_endpoint)]
    otlp_endpoint: Option<String>,
}

/// How much a client may ask of a connection.
#[derive(Debug, Clone, Args)]
struct ConnectionArguments {
    /// Connections at the same time; further ones wait until one is closed
    #[arg(
        long,
        env = "MAX_CONNECTIONS",
        default_value = "4096",
        value_name = "COUNT"
    )]
    max_connections: NonZeroUsize,

    /// Largest head of a request; a larger one is refused (431); at least 8192
    #[arg(long, env = "MAX_HEADER_BYTES", default_value = "32768", value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(8192..=1_048_576))]
    max_header_bytes: u32,

    /// How long a connection may be idle, or take to send the head of a request; from 1. Longer
    /// than the router keeps its own connections (30 s)
    #[arg(long, env = "IDLE_TIMEOUT_SECONDS", default_value = "75", value_name = "SECONDS",
          value_parser = idle_timeout)]
    idle_timeout_seconds: Duration,
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

/// Which requests are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RequestLog {
    /// Each of them, health checks and scrapes excepted.
    All,
    /// Those that the server failed (500 and above).
    Failures,
}

/// How much a client may ask of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at the same time.
    pub connections: usize,
    /// Largest head of a request, in bytes.
    pub header_bytes: usize,
    /// How long a connection may be idle, or take to send the head of a request.
    pub idle: Duration,
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
    /// Who runs the model.
    pub engine: EngineKind,
    /// The library for the engine `onnxruntime`; where there is none, the usual places are searched.
    pub onnxruntime_library: Option<PathBuf>,
    /// CPUs to use for the model.
    pub inference_threads: NonZeroUsize,
    /// Forward passes at the same time.
    pub inference_workers: NonZeroUsize,
    /// Texts that share a forward pass at most; without it the model decides.
    pub max_batch_texts: Option<NonZeroUsize>,
    /// Tokens in a forward pass at most, padding included.
    pub max_batch_tokens: NonZeroUsize,
    /// Texts that may wait for their turn.
    pub queue_capacity: NonZeroUsize,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Bytes of larger request bodies that may be under way together.
    pub max_pending_bytes: usize,
    /// How long a client waits at most for a prediction.
    pub request_timeout: Duration,
    /// How much a client may ask of a connection.
    pub connections: ConnectionLimits,
    /// File of API keys; without one everybody may ask.
    pub api_keys_file: Option<PathBuf>,
    /// How long to go on serving after the stop signal.
    pub grace: Duration,
    /// How long requests in flight may take after that.
    pub hard_stop: Duration,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which requests are logged.
    pub request_log: RequestLog,
    /// Where traces go, if anywhere.
    pub otlp_endpoint: Option<String>,
}

impl ServeArguments {
    /// The settings that follow from the arguments.
    pub fn resolve(self) -> Result<Settings, SettingsError> {
        // Compose passes a variable that is not set as an empty one.
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

fn idle_timeout(text: &str) -> Result<Duration, String> {
    seconds(text)
        .ok()
        .filter(|it| *it >= Duration::from_secs(1))
        .ok_or_else(|| "expected seconds from 1 to 86400, such as 75".to_owned())
}

/// Compose passes a variable that is not set as an empty one.
fn otlp_endpoint(text: &str) -> Result<String, String> {
    if !text.is_empty() {
        telemetry::check(text)
            .map_err(|problem| format!("{problem}; expected such as http://localhost:4318"))?;
    }
    Ok(text.to_owned())
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
    fn an_empty_path_is_none() {
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
    fn an_endpoint_for_traces_is_a_url_or_nothing() {
        let endpoint = |url| {
            let arguments = ["--model-version", "v1", "--otlp-endpoint", url];
            resolve(&arguments).unwrap().otlp_endpoint
        };
        assert_eq!(endpoint(""), None);
        assert_eq!(endpoint("http://a:4318").as_deref(), Some("http://a:4318"));
        let message = refusal(&["--model-version", "v1", "--otlp-endpoint", "a:4318"]);
        assert!(message.contains("expected such as"), "{message}");
    }

    #[test]
    fn no_threads_at_all_are_refused() {
        refusal(&["--model-version", "v1", "--inference-threads", "0"]);
    }
}
