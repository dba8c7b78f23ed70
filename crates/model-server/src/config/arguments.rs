use std::{ffi::OsString, net::IpAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use clap::Args;

use crate::{
    backend::engine::EngineKind,
    config::{
        log::{LogFormat, RequestLog},
        parsers::{idle_timeout, otlp_endpoint, request_timeout, seconds},
    },
};

/// The command line of the server. [`ServeArguments::resolve`] turns it into settings. Another program may
/// flatten it into its own command line.
#[derive(Debug, Clone, Args)]
pub struct ServeArguments {
    /// Model to serve: a directory in the model root
    #[arg(
        long,
        env = "MODEL_NAME",
        default_value = "sentiment",
        value_name = "NAME"
    )]
    pub(crate) model_name: String,

    /// Release to serve: a directory of the model, such as v1 (required)
    #[arg(long, env = "MODEL_VERSION", value_name = "VERSION")]
    pub(crate) model_version: Option<String>,

    /// Directory of models: ROOT/NAME/VERSION/{model.onnx, tokenizer.json, config.json}
    #[arg(
        long,
        env = "MODEL_ROOT",
        default_value = "models",
        value_name = "ROOT"
    )]
    pub(crate) model_root: PathBuf,

    #[command(flatten)]
    pub(crate) address: AddressArguments,

    /// Engine that runs the model: the built-in one, or ONNX Runtime, a library that must be installed
    #[arg(long, env = "ENGINE", default_value = "rten", value_name = "ENGINE")]
    pub(crate) engine: EngineKind,

    /// Path of the library for --engine onnxruntime [default: libonnxruntime.so in the usual directories]
    #[arg(long, env = "ONNXRUNTIME_LIBRARY", value_name = "PATH")]
    pub(crate) onnxruntime_library: Option<OsString>,

    /// CPUs to use for the model [default: those that this process may use]
    #[arg(long, env = "INFERENCE_THREADS", value_name = "COUNT")]
    pub(crate) inference_threads: Option<NonZeroUsize>,

    /// Concurrent forward passes, at most one for each thread; a single pass uses all threads [default: one for
    /// each thread]
    #[arg(long, env = "INFERENCE_WORKERS", value_name = "COUNT")]
    pub(crate) inference_workers: Option<NonZeroUsize>,

    /// Most texts of similar length in one forward pass; 1 turns batching off [default: 4; more for a model
    /// that takes microseconds; 1 for a model that quantizes at run time, whose outputs depend on the batch]
    #[arg(long, env = "MAX_BATCH_TEXTS", value_name = "COUNT")]
    pub(crate) max_batch_texts: Option<NonZeroUsize>,

    /// Most tokens in a forward pass, padding included; a longer text runs alone
    #[arg(
        long,
        env = "MAX_BATCH_TOKENS",
        default_value = "4096",
        value_name = "COUNT"
    )]
    pub(crate) max_batch_tokens: NonZeroUsize,

    /// Texts that may wait in the queue; further ones get 429. One request may have a quarter of them
    #[arg(
        long,
        env = "QUEUE_CAPACITY",
        default_value = "1024",
        value_name = "COUNT"
    )]
    pub(crate) queue_capacity: NonZeroUsize,

    /// Largest request body after decompression; a larger one gets 413
    #[arg(
        long,
        env = "MAX_BODY_BYTES",
        default_value = "1048576",
        value_name = "BYTES"
    )]
    pub(crate) max_body_bytes: NonZeroUsize,

    /// Memory for all request bodies above 16 KiB in flight, after decompression; further ones get 429. At
    /// least the largest body
    #[arg(
        long,
        env = "MAX_PENDING_BYTES",
        default_value = "67108864",
        value_name = "BYTES"
    )]
    pub(crate) max_pending_bytes: NonZeroUsize,

    /// How long a client waits for a prediction before it gets 504; from 0.01 to 100
    #[arg(long, env = "REQUEST_TIMEOUT_SECONDS", default_value = "30", value_name = "SECONDS",
          value_parser = request_timeout)]
    pub(crate) request_timeout_seconds: Duration,

    #[command(flatten)]
    pub(crate) connections: ConnectionArguments,

    /// File of API keys, one on each line, # starts a comment; reloaded when it changes. With it, every request
    /// except health checks needs a key
    #[arg(long, env = "API_KEYS_FILE", value_name = "PATH")]
    pub(crate) api_keys_file: Option<OsString>,

    /// After SIGTERM: how long to serve new requests while /health returns 503
    #[arg(long, env = "GRACE_SECONDS", default_value = "5", value_name = "SECONDS",
          value_parser = seconds)]
    pub(crate) grace_seconds: Duration,

    /// After that: how long requests in flight may take before they are cut
    #[arg(long, env = "HARD_STOP_SECONDS", default_value = "30", value_name = "SECONDS",
          value_parser = seconds)]
    pub(crate) hard_stop_seconds: Duration,

    /// Format of the log on standard error
    #[arg(
        long,
        env = "LOG_FORMAT",
        default_value = "plain",
        value_name = "FORMAT"
    )]
    pub(crate) log_format: LogFormat,

    /// Which requests are logged: all, or failures (status 500 and above)
    #[arg(long, env = "REQUEST_LOG", default_value = "all", value_name = "WHICH")]
    pub(crate) request_log: RequestLog,

    /// Where to send traces (OTLP over HTTP), such as `http://localhost:4318` [default: nowhere]
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL",
          value_parser = otlp_endpoint)]
    pub(crate) otlp_endpoint: Option<String>,
}

/// The limits of connections.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectionArguments {
    /// Concurrent connections; further ones wait until one closes
    #[arg(
        long,
        env = "MAX_CONNECTIONS",
        default_value = "4096",
        value_name = "COUNT"
    )]
    pub(crate) max_connections: NonZeroUsize,

    /// Largest head of a request, at least 8192; a larger one gets 431
    #[arg(long, env = "MAX_HEADER_BYTES", default_value = "32768", value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(8192..=1_048_576))]
    pub(crate) max_header_bytes: u32,

    /// How long a connection may be idle, or take to send the head of a request; at least 1. Must be longer
    /// than the router keeps idle connections (30 s)
    #[arg(long, env = "IDLE_TIMEOUT_SECONDS", default_value = "75", value_name = "SECONDS",
          value_parser = idle_timeout)]
    pub(crate) idle_timeout_seconds: Duration,
}

/// Where the server listens, and where its health check connects.
#[derive(Debug, Clone, Copy, Args)]
pub struct AddressArguments {
    /// Address to listen on; 0.0.0.0 in a container
    #[arg(long, env = "HOST", default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) host: IpAddr,

    /// Port to listen on; 0 takes a free one, which the log names
    #[arg(long, env = "PORT", default_value = "8081", value_name = "PORT")]
    pub(crate) port: u16,
}
